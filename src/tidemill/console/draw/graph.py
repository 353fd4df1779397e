"""A run's graph: steps in columns by how deep they lie, edges as curves, the state as colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tidemill.console.draw.svg import picture, tag
from tidemill.console.words import milliseconds, plain

BOX_W, BOX_H, GAP_X, GAP_Y, PAD = 150, 46, 46, 18, 8


def depths(nodes: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Longest way from a node without inputs; nodes come in an order in which they can run."""
    out: dict[str, int] = {}
    for node, needs in nodes.items():
        out[node] = 1 + max((out.get(n, 0) for n in needs), default=-1)
    return out


def graph(nodes: Mapping[str, Sequence[str]], steps: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Draw `nodes` (id → ids it needs, in running order) with the step rows that ran."""
    if not nodes:
        return Markup("")
    deep = depths(nodes)
    columns: dict[int, list[str]] = {}
    for node in nodes:
        columns.setdefault(deep[node], []).append(node)
    tallest = max(len(column) for column in columns.values())
    height = tallest * (BOX_H + GAP_Y) + 2 * PAD
    width = len(columns) * (BOX_W + GAP_X) - GAP_X + 2 * PAD
    spots = {}
    for depth, column in columns.items():
        top = (height - len(column) * (BOX_H + GAP_Y)) / 2
        spots.update({node: (PAD + depth * (BOX_W + GAP_X), top + i * (BOX_H + GAP_Y)) for i, node in enumerate(column)})
    edges = [_edge(spots[need], spots[node]) for node, needs in nodes.items() for need in needs if need in spots]
    boxes = [_box(node, spots[node], steps.get(node)) for node in nodes]
    return picture(width, height, *edges, *boxes, label=f"Graph of {len(nodes)} steps", class_="pic graph")


def _edge(a: tuple[float, float], b: tuple[float, float]) -> Markup:
    x1, y1, x2, y2 = a[0] + BOX_W, a[1] + BOX_H / 2, b[0], b[1] + BOX_H / 2
    bend = max((x2 - x1) / 2, 18)
    if x2 - x1 <= GAP_X + 1:
        return tag("path", d=f"M{x1} {y1}C{x1 + bend:.0f} {y1} {x2 - bend:.0f} {y2} {x2} {y2}", class_="edge")
    low = max(a[1], b[1]) + BOX_H + GAP_Y / 2  # a long edge passes below the boxes between
    half = GAP_X / 2
    down = f"C{x1 + half} {y1} {x1} {low} {x1 + GAP_X} {low}"
    return tag("path", d=f"M{x1} {y1}{down}H{x2 - GAP_X}C{x2} {low} {x2 - half} {y2} {x2} {y2}", class_="edge")


def _box(node: str, spot: tuple[float, float], step: Mapping[str, Any] | None) -> Markup:
    state = step["status"] if step else "waiting"
    x, y = spot
    took = milliseconds(step["wall_ms"]) if step and step["wall_ms"] is not None and state != "cached" else ""
    name = node if len(node) <= 20 else f"{node[:19]}…"
    return tag(
        "a",
        tag("rect", x=x, y=y, width=BOX_W, height=BOX_H, rx=6, class_="box"),
        tag("rect", x=x, y=y + 8, width=3, height=BOX_H - 16, rx=1.5, class_="edge-mark"),
        tag("text", name, x=x + 14, y=y + 20, class_="box-name"),
        tag("text", f"{plain(state)}{' · ' + took if took else ''}", x=x + 14, y=y + 36, class_="box-note"),
        href=f"#step-{node}", class_=f"box-link {state}", aria_label=f"{node}: {state}",
    )  # fmt: skip
