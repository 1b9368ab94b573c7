// One answer of the playground: its tokens coloured by probability, and the likeliest tokens of the
// place that is pointed at.
import { announce } from "./announce.js";

const LEVELS = [0.1, 0.3, 0.6, 0.9];

export class Answer {
  constructor(section, label) {
    const number = section.id.at(-1);
    this.title = build("h2", { id: `answer-${number}-title` }, label);
    this.facts = build("p", { class: "facts-line" });
    this.tokens = build("div", {
      class: "tokens",
      tabindex: "0",
      role: "group",
      "aria-label": `Tokens of ${label}; the arrow keys move`,
    });
    this.likeliest = build("div", { class: "likeliest" });
    section.replaceChildren(this.title, this.facts, this.tokens, this.likeliest);
    this.seen = [];
    this.chosen = -1;
    this.tokens.addEventListener("pointerover", ({ target }) => {
      const index = this.seen.findIndex(({ element }) => element === target);
      if (index >= 0) this.choose(index);
    });
    this.tokens.addEventListener("keydown", (event) => this.move(event));
  }

  begin(prompt) {
    this.begun = performance.now();
    this.prompt = build("span", { class: "prompt" }, prompt);
    this.tokens.append(this.prompt);
  }

  add(event) {
    if (event.error) return this.fail(event.error);
    if (event.stop_reason) return this.end(event);
    if (event.prompt !== undefined) {
      this.prompt.textContent = event.prompt; // as the model reads it
      return;
    }
    const probability = Math.exp(event.logprob);
    const level = LEVELS.filter((bound) => probability >= bound).length;
    const element = build("span", { class: `token p${level}` }, event.text);
    this.seen.push({ ...event, probability, element });
    this.tokens.append(element);
    this.facts.textContent = this.words();
  }

  end({ stop_reason, likeliest }) {
    this.reason = stop_reason === "length" ? "cut at the limit" : "ended by itself";
    this.seen.forEach((token, index) => (token.likeliest = likeliest[index]));
    this.facts.textContent = this.words();
    if (this.seen.length) this.choose(Math.max(0, this.chosen));
  }

  fail(reason) {
    this.reason = reason;
    this.facts.textContent = this.words();
  }

  words() {
    const count = this.seen.length;
    if (!count) return this.reason ?? "";
    const seconds = (performance.now() - this.begun) / 1000;
    const mean = this.seen.reduce((sum, { logprob }) => sum + logprob, 0) / count;
    const rate = (count / seconds).toPrecision(3);
    const parts = [`${count} tokens`, `${rate} tokens/s`, `mean logprob ${mean.toFixed(2)}`];
    if (!this.reason) return parts.join(", ");
    this.told ??= [...parts, this.reason].join(", ");
    return this.told;
  }

  move(event) {
    const last = this.seen.length - 1;
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    const index =
      { Home: 0, End: last }[event.key] ??
      (event.key in steps ? Math.min(last, Math.max(0, this.chosen + steps[event.key])) : null);
    if (index === null || last < 0) return;
    event.preventDefault();
    this.choose(index);
    const { text, probability } = this.seen[index];
    announce(`${JSON.stringify(text)}, ${percentOf(probability)}`);
  }

  choose(index) {
    this.seen[this.chosen]?.element.classList.remove("chosen");
    this.chosen = index;
    const token = this.seen[index];
    token.element.classList.add("chosen");
    const drawn = { token: token.token, text: token.text, logprob: token.logprob };
    const others = token.likeliest ?? [];
    const isAmong = others.some((other) => other.token === drawn.token);
    const rows = (isAmong ? others : [...others, drawn]).map((one) => row(one, drawn));
    const caption = build("caption", { class: "unseen" }, `Likeliest tokens at place ${index + 1}`);
    this.likeliest.replaceChildren(build("table", {}, caption, build("tbody", {}, ...rows)));
  }
}

const percentOf = (probability) => `${(100 * probability).toFixed(1)} %`;

function row({ token, text, logprob }, drawn) {
  const probability = Math.exp(logprob);
  const percent = percentOf(probability);
  const meter = build("meter", { min: "0", max: "1", value: probability, "aria-label": percent });
  return build(
    "tr",
    token === drawn.token ? { class: "drawn" } : {},
    build("td", {}, build("code", {}, JSON.stringify(text))),
    build("td", { class: "figure" }, percent),
    build("td", {}, meter),
    build("td", {}, token === drawn.token ? "drawn" : ""),
  );
}

function build(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== undefined));
  return element;
}
