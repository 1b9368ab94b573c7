// Starts what the pages do beyond showing what the server has sent. Each part finds its own elements.
import { startChart } from "./chart.js";
import { startDialogs } from "./dialogs.js";
import { startFollowing } from "./live.js";
import { startNavigation } from "./navigate.js";
import { startPlayground } from "./playground.js";
import { startThemeButton } from "./theme_button.js";

startThemeButton();
startNavigation();
startDialogs();
startChart();
startPlayground();
startFollowing();

document.addEventListener("keydown", (event) => {
  const search = document.getElementById("search");
  const isTyping = event.target.closest?.("input, textarea, select");
  if (event.key !== "/" || !search || isTyping || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  search.focus();
});
