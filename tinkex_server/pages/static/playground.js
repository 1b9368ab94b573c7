// The playground: sends the prompt to one or two sets of weights, and shows the tokens as they come.
import { announce } from "./announce.js";
import { Answer } from "./answer.js";
import { readEvents } from "./events.js";

export function startPlayground() {
  const form = document.getElementById("ask");
  if (!form) return;
  let stopping = null;
  const stop = document.getElementById("stop");
  const start = document.getElementById("start");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    stopping = new AbortController();
    start.disabled = true;
    stop.hidden = false;
    await sample(form, stopping.signal);
    start.disabled = false;
    stop.hidden = true;
  });
  stop.addEventListener("click", () => stopping?.abort());
  const weights = document.getElementById("weights");
  const showChat = () => offerChat(weights.selectedOptions[0]);
  weights.addEventListener("change", showChat);
  showChat();
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

function offerChat(option) {
  const chat = document.getElementById("chat");
  const help = document.getElementById("chat-help");
  const has = option?.dataset.chat !== undefined;
  chat.disabled = !has;
  chat.checked &&= has;
  help.textContent = has ? help.dataset.has : help.dataset.lacks;
}

async function sample(form, signal) {
  const fields = new FormData(form);
  const wanted = [fields.get("weights"), fields.get("other")].filter(Boolean);
  document.getElementById("answers").hidden = false;
  document.getElementById("legend").hidden = false;
  const labels = ["weights", "other"].map((id) => labelOf(document.getElementById(id)));
  document.getElementById("answer-2").hidden = wanted.length < 2;
  const answers = wanted.map(
    (_, index) => new Answer(document.getElementById(`answer-${index + 1}`), labels[index]),
  );
  announce("Sampling");
  await Promise.all(
    answers.map((answer, index) => stream(answer, body(fields, wanted[index]), signal)),
  );
  announce(answers.map((answer) => answer.words()).join(". "));
}

const labelOf = (select) => select.selectedOptions[0]?.label;

function body(fields, weights) {
  const numbers = ["max_tokens", "temperature", "top_p", "seed"]
    .filter((name) => fields.get(name) !== "")
    .map((name) => [name, Number(fields.get(name))]);
  return JSON.stringify({
    weights,
    prompt: fields.get("prompt"),
    chat: fields.has("chat"),
    ...Object.fromEntries(numbers),
  });
}

async function stream(answer, body, signal) {
  answer.begin(JSON.parse(body).prompt);
  try {
    const response = await fetch("/playground/sample", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body,
      signal,
    });
    if (!response.ok) return answer.fail(reasonOf(await response.json()));
    for await (const event of readEvents(response.body)) answer.add(event);
  } catch (error) {
    answer.fail(error.name === "AbortError" ? "stopped" : "the connection to the server was lost");
  }
}

function reasonOf({ detail }) {
  if (typeof detail === "string") return detail;
  return detail.map(({ loc, msg }) => `${loc.slice(1).join(".")} ${msg}`).join("; ");
}
