"use strict";
// Draws every <figure data-plot="ID"> from the JSON in <script id="ID">, in the theme's colours, and again when the theme changes.

const COLOUR_KEYS = new Set(["color", "fillcolor"]);

function theme() {
  const style = getComputedStyle(document.documentElement);
  return (role) => style.getPropertyValue(`--${role}`).trim();
}

function coloured(value, colour) {
  const [role, alpha] = value.split("/");
  const hex = colour(role);
  if (!hex) return value;
  if (alpha === undefined) return hex;
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}

function themed(value, colour, key = "") {
  if (Array.isArray(value)) return value.map((item) => themed(item, colour, key));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, colour, k)]));
  return typeof value === "string" && COLOUR_KEYS.has(key) ? coloured(value, colour) : value;
}

function layout(spec, colour) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), tickfont: { size: 11, color: colour("faint") }, automargin: false, fixedrange: false };
  const asked = themed(spec.layout, colour);
  const title = { ...(asked.yaxis?.title || {}), font: { size: 12, color: colour("faint") } };
  return {
    margin: { l: 60, r: 14, t: 22, b: 38 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "x",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("soft") },
    hoverlabel: { bgcolor: colour("raise"), bordercolor: colour("line"), font: { color: colour("ink") } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 13, color: colour("ink") } },
    ...asked,
    xaxis: { ...axis, showgrid: false, ...(spec.axes?.x || {}) },
    yaxis: { ...axis, title, zeroline: false, ...(spec.axes?.y || {}) },
  };
}

function draw() {
  const colour = theme();
  for (const figure of document.querySelectorAll("figure[data-plot]")) {
    const spec = JSON.parse(document.getElementById(figure.dataset.plot).textContent);
    window.Plotly.react(figure, themed(spec.data, colour), layout(spec, colour), { displayModeBar: false, responsive: true, scrollZoom: false });
  }
}

document.addEventListener("DOMContentLoaded", draw);
document.addEventListener("themechange", draw);
