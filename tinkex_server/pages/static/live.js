// Keeps the regions of a page as they are on the server, by server-sent events.
import { announce } from "./announce.js";
import { morph } from "./morph.js";

let source = null;

// Follows the page that is shown now. A hidden page follows nothing: browsers open few connections.
export function follow() {
  source?.close();
  source = null;
  const isLive = document.getElementById("main").hasAttribute("data-live");
  if (!isLive || document.hidden) return;
  source = new EventSource(location.pathname + location.search);
  source.onopen = () => show(true);
  source.onerror = () => show(false);
  source.onmessage = (event) => update(JSON.parse(event.data));
  source.addEventListener("gone", () => location.reload());
}

export function startFollowing() {
  follow();
  document.addEventListener("visibilitychange", follow);
}

function update(regions) {
  for (const [id, html] of Object.entries(regions)) {
    const element = document.getElementById(id);
    const template = document.createElement("template");
    template.innerHTML = html.trim();
    if (element) morph(element, template.content.getElementById(id));
  }
  document.dispatchEvent(new Event("updated"));
}

function show(isOpen) {
  const sign = document.getElementById("live");
  const wasOpen = !sign.hidden && !sign.classList.contains("away");
  sign.hidden = false;
  sign.classList.toggle("away", !isOpen);
  document.getElementById("live-words").textContent = isOpen ? "live" : "reconnecting";
  if (wasOpen && !isOpen) announce("The connection to the server is lost; trying again.");
}
