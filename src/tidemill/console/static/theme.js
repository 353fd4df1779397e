"use strict";
// Runs before the first paint, so that a chosen theme never flashes.
(() => {
  const stored = localStorage.getItem("tidemill-theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const set = (theme) => { document.documentElement.dataset.theme = theme; };
  set(stored || (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", (event) => {
    if (!localStorage.getItem("tidemill-theme")) { set(event.matches ? "dark" : "light"); document.dispatchEvent(new Event("themechange")); }
  });
})();
