"use strict";
// Theme, keys and live updates. No framework: a page works without any of this.

const PLACES = new Map([["l", "/"], ["d", "/data"], ["f", "/features"], ["r", "/runs"], ["m", "/models"], ["s", "/services"], ["o", "/monitoring"], ["x", "/decisions"], ["p", "/replay"]]);

function toggleTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("tidemill-theme", theme);
  document.dispatchEvent(new Event("themechange"));
}

function startKeys() {
  const help = document.getElementById("help");
  let waiting = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "?") { help.open ? help.close() : help.showModal(); event.preventDefault(); return; }
    if (event.key === "t" && !waiting) { toggleTheme(); return; }
    if (event.key === "g") { waiting = event.timeStamp; document.body.classList.add("show-keys"); return; }
    const place = PLACES.get(event.key);
    if (place && waiting && event.timeStamp - waiting < 1500) window.location.assign(place);
    if (event.key === "[" || event.key === "]") document.querySelector(event.key === "[" ? "a[rel=prev]" : "a[rel=next]")?.click();
    waiting = 0;
    document.body.classList.remove("show-keys");
  });
}

const STAGE_OF = [["batch.published", "ingest"], ["batch.rejected", "validate"], ["batch", "ingest"], ["run", "train"], ["trigger", "retrain"], ["cause", "retrain"], ["model", "register"], ["deploy", "deploy"], ["decision", "gate"], ["rollout", "deploy"], ["feature", "features"], ["monitor", "monitor"]];

function pulse(kind) {
  const stage = STAGE_OF.find(([prefix]) => kind.startsWith(prefix));
  const node = stage && document.querySelector(`[data-stage="${stage[1]}"]`);
  if (!node) return;
  node.classList.add("pulse");
  window.setTimeout(() => node.classList.remove("pulse"), 5400);
}

async function refresh() {
  for (const part of document.querySelectorAll("[data-live]")) {
    if (part.contains(document.activeElement) && document.activeElement.matches(":focus-visible")) continue;
    const answer = await fetch(part.dataset.live, { headers: { Accept: "text/html" } });
    if (answer.ok && !answer.redirected) part.innerHTML = await answer.text();
  }
}

function sayGone(gone) {
  const before = document.getElementById("gone");
  if (!gone) { before?.remove(); return; }
  if (before) return;
  const said = document.createElement("div"), text = document.createElement("p"), link = document.createElement("a");
  said.id = "gone"; said.className = "notice bad"; said.setAttribute("role", "alert");
  link.href = window.location.href; link.textContent = "What goes on, and what to do";
  text.append("The ledger does not answer. This page shows what was known before. ", link);
  said.append(text);
  document.getElementById("main").prepend(said);
}

function startLive() {
  const dot = document.getElementById("live");
  if (!dot || document.getElementById("gone")) return; // the page of a ledger that is gone asks for itself again
  const parts = document.querySelectorAll("[data-live]").length > 0;
  const say = (on, text) => { dot.classList.toggle("on", on); dot.nextElementSibling.textContent = text; };
  let source = null, due = 0;
  const onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (parts && !due) due = window.setTimeout(async () => { due = 0; await refresh().catch(() => {}); pulse(event.kind); }, 1500);
    pulse(event.kind);
  };
  const listen = () => {
    source = new EventSource("/api/v1/events");
    source.onopen = () => say(true, "live");
    source.onmessage = onmessage;
    source.onerror = () => {
      say(false, "reconnecting");
      if (source.readyState === EventSource.CLOSED) window.setTimeout(listen, 5000); // a browser goes on by itself unless it was refused
    };
    source.addEventListener("ledger", (message) => {
      const gone = JSON.parse(message.data).gone_since_us !== null;
      say(!gone, gone ? "the ledger is gone" : "live");
      sayGone(gone);
      if (!gone && parts) refresh().catch(() => {});
    });
  };
  listen();
  window.addEventListener("pagehide", () => source.close());
}

function startRows() {
  const button = document.getElementById("compare");
  if (!button) return;
  const boxes = [...document.querySelectorAll("input[name=run]")];
  const look = () => { const n = boxes.filter((box) => box.checked).length; button.disabled = n < 2 || n > 8; button.textContent = n > 1 ? `Compare ${n}` : "Compare"; };
  boxes.forEach((box) => box.addEventListener("change", look));
  look();
}

document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("theme")?.addEventListener("click", toggleTheme);
  document.getElementById("keys")?.addEventListener("click", () => document.getElementById("help").showModal());
  startKeys();
  startRows();
  startLive();
});
