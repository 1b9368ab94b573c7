// Sets the theme before anything is painted. It is no module, since modules run later.
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const stored = localStorage.getItem("tinkex-theme");
  if (stored) root.dataset.theme = stored;
})();
