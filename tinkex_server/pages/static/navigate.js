// Searching, filtering, sorting and paging without a new page: links and forms below an element
// with data-navigate change the address, and the page that it stands for takes the old one's place.
import { announce } from "./announce.js";
import { follow } from "./live.js";
import { morph } from "./morph.js";

const TYPING_MS = 200;
let newest = 0;

export function startNavigation() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    const isPlain = !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
    if (!isPlain || !link?.closest("[data-navigate]") || !staysHere(link)) return;
    event.preventDefault();
    go(link.href, { keep: true });
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-navigate]")) return;
    event.preventDefault();
    go(addressOf(event.target), { keep: true });
  });
  let timer = null;
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-navigate]");
    if (!form) return;
    clearTimeout(timer);
    timer = setTimeout(() => go(addressOf(form), { keep: false }), TYPING_MS);
  });
  addEventListener("popstate", () => load(location.href, { typed: true }));
}

const staysHere = (link) => new URL(link.href).pathname === location.pathname;

function addressOf(form) {
  const fields = [...new FormData(form)].filter(([, value]) => value);
  const query = new URLSearchParams(fields).toString();
  return form.action.split("?")[0] + (query ? `?${query}` : "");
}

// Shows another address. With `keep` the button Back leads to the one before.
async function go(url, { keep }) {
  if (keep) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  await load(url, { typed: false });
}

async function load(url, { typed }) {
  const number = ++newest;
  const answer = await fetch(url, { headers: { Accept: "text/html" } });
  const html = await answer.text();
  if (number !== newest) return; // the user went on meanwhile
  const page = new DOMParser().parseFromString(html, "text/html");
  morph(document.getElementById("main"), page.getElementById("main"));
  document.title = page.title;
  if (typed) restoreSearch(page);
  follow();
  document.dispatchEvent(new Event("updated"));
  const found = document.getElementById("runs")?.dataset.total;
  if (found !== undefined) announce(found === "1" ? "1 run" : `${found} runs`);
}

function restoreSearch(page) {
  const search = document.getElementById("search");
  if (search) search.value = page.getElementById("search").value;
}
