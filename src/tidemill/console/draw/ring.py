"""The ring: eleven stages on one track, with what happens now at each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tidemill.console.draw.svg import picture, tag
from tidemill.console.words import ago

WIDTH, HEIGHT = 1200, 452
LEFT, RIGHT, TOP, BOTTOM = 150.0, 1050.0, 96.0, 366.0
RADIUS = (BOTTOM - TOP) / 2
LINKS = {
    "ingest": "/data", "validate": "/data?status=rejected", "version": "/data", "features": "/features", "train": "/runs", "gate": "/decisions?kind=gate",
    "register": "/models", "deploy": "/services", "serve": "/services", "monitor": "/monitoring", "retrain": "/runs",
}  # fmt: skip
SPOTS: dict[str, tuple[float, float]] = {
    **{name: (280.0 + 160 * i, TOP) for i, name in enumerate(("ingest", "validate", "version", "features", "train"))},
    "gate": (RIGHT, (TOP + BOTTOM) / 2),
    **{name: (900.0 - 200 * i, BOTTOM) for i, name in enumerate(("register", "deploy", "serve", "monitor"))},
    "retrain": (LEFT, (TOP + BOTTOM) / 2),
}


def ring(stages: Sequence[Mapping[str, Any]], now_us: int) -> Markup:
    """Draw stages {"stage", "state", "at_us", "fact"} in ring order."""
    inner = f"M{LEFT + RADIUS} {TOP}H{RIGHT - RADIUS}A{RADIUS} {RADIUS} 0 0 1 {RIGHT - RADIUS} {BOTTOM}H{LEFT + RADIUS}A{RADIUS} {RADIUS} 0 0 1 {LEFT + RADIUS} {TOP}Z"
    parts = [tag("path", d=inner, class_="track"), tag("path", d=inner, class_="tide-flow")]
    parts += [_arrow(x, TOP, 0) for x in (360, 520, 680, 840)] + [_arrow(x, BOTTOM, 180) for x in (800, 600, 400)]
    parts += [_stage(stage, now_us) for stage in stages]
    return picture(WIDTH, HEIGHT, *parts, label="The loop: what happens at each stage now", class_="pic ring")


def _arrow(x: float, y: float, turn: int) -> Markup:
    return tag("path", d="M-4 -5L4 0L-4 5", transform=f"translate({x} {y}) rotate({turn})", class_="arrow")


def _stage(stage: Mapping[str, Any], now_us: int) -> Markup:
    name, state = stage["stage"], stage["state"]
    x, y = SPOTS[name]
    side = -1 if name == "retrain" else 1
    anchor, at_x, at_y = "middle", x, y + 34
    if y == TOP:
        at_y = y - 58
    elif name in ("gate", "retrain"):
        anchor, at_x, at_y = ("start" if side > 0 else "end"), x + 22 * side, y - 10
    age = ago(stage["at_us"], now_us) if stage["at_us"] is not None else ""
    body = [
        tag("circle", cx=x, cy=y, r=17, class_="halo"),
        tag("circle", cx=x, cy=y, r=9, class_="node"),
        tag("text", name, x=at_x, y=at_y, text_anchor=anchor, class_="stage-name"),
        tag("text", stage["fact"], x=at_x, y=at_y + 17, text_anchor=anchor, class_="stage-fact"),
    ]
    body.append(tag("text", age, x=at_x, y=at_y + 33, text_anchor=anchor, class_="stage-age"))
    label = f"{name}: {stage['fact']}{', ' + age + ' ago' if age and age != 'just now' else ''}"
    return tag("a", *body, href=LINKS[name], class_=f"stage {state}", data_stage=name, aria_label=label)
