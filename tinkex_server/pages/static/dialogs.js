// Questions in a dialog. The link leads to a page with the question; its form is shown over the
// page that the user is on, and the answer is sent without leaving it.
import { announce } from "./announce.js";

export function startDialogs() {
  const dialog = document.getElementById("dialog");
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const answer = await fetch(link.href, { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const form = page.getElementById("confirm");
    if (!form) return location.assign(link.href); // a refusal, or the login form
    dialog.replaceChildren(form);
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target !== dialog && !event.target.closest("[data-close]")) return;
    event.preventDefault();
    dialog.close();
  });
  dialog.addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target;
    const answer = await fetch(form.action, { method: "POST", headers: { Accept: "application/json" }, redirect: "manual" });
    dialog.close();
    const isDone = answer.type === "opaqueredirect" || answer.ok;
    announce(isDone ? form.dataset.done : (await answer.json()).detail);
    document.getElementById("main").focus();
  });
}
