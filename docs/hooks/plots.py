"""Draws docs/assets/scaling.svg: how seconds grow with rows, keys and windows, on two logarithmic axes."""

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT, GAP, TOP, BOTTOM, LEFT = 300, 240, 24, 42, 40, 44
TITLES = {"scaling_rows": "rows of the table", "scaling_keys": "keys", "scaling_windows": "windows in one pass"}
INK, LINE, GRID = "#1d5f6e", "#2a8ca3", "#8888884d"


def scaling(figures: list[dict[str, Any]]) -> str:
    """The three plots side by side as one SVG; empty when there is nothing to draw."""
    panels = []
    for task, title in TITLES.items():
        points = sorted((f["x"], f["value"]) for f in figures if f["task"] == task and f.get("x") and f["value"])
        slope = next((f["value"] for f in figures if f["task"] == f"{task}_exponent"), None)
        if len(points) > 1:
            panels.append(_panel(points, title, slope, len(panels) * (WIDTH + GAP)))
    if not panels:
        return ""
    width = len(panels) * (WIDTH + GAP) - GAP
    style = f'font-family="system-ui, sans-serif" font-size="11" fill="{INK}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img" {style}>\n' + "\n".join(panels) + "\n</svg>\n"
    )


def _panel(points: list[tuple[float, float]], title: str, slope: float | None, left: float) -> str:
    """One plot: the points, a line through them, and their fitted exponent."""
    x_low, x_high = (math.log10(points[i][0]) for i in (0, -1))
    y_low, y_high = math.floor(min(math.log10(y) for _, y in points)), math.ceil(max(math.log10(y) for _, y in points))
    y_high = max(y_high, y_low + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / ((x_high - x_low) or 1)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return left + LEFT + across * (WIDTH - LEFT - 14), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for power in range(y_low, y_high + 1):
        _, y = place(points[0][0], 10.0**power)
        parts.append(f'<line x1="{left + LEFT:.1f}" x2="{left + WIDTH:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{left + LEFT - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>')
    for x, y in points:
        across, up = place(x, y)
        parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{LINE}"><title>{x:,.0f}: {y:.3g} s</title></circle>')
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_short(x)}</text>')
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(x, y) for x, y in points))
    parts.append(f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
    fitted = f": grows as n^{slope:.2f}" if slope is not None else ""
    parts.append(f'<text x="{left + LEFT:.1f}" y="18" font-size="12">{escape(title)}{fitted}</text>')
    return "\n".join(parts)


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
