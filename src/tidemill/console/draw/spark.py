"""Sparklines, bars and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tidemill.console.draw.svg import path, picture, scale, tag


def sparkline(
    values: Sequence[float | None], *, label: str, width: int = 240, height: int = 44, band: Sequence[tuple[float, float]] = ()
) -> Markup:
    """A line of values with a dot at its end; `band` holds (low, high) of each value."""
    known = [(i, v) for i, v in enumerate(values) if v is not None]
    if not known:
        return Markup("")
    floor = [v for _, v in known] + [low for low, _ in band]
    roof = [v for _, v in known] + [high for _, high in band]
    x, y = scale(0, max(len(values) - 1, 1), 2, width - 6), scale(min(floor), max(roof), height - 4, 4)
    parts = []
    if band:
        edge = [(x(i), y(high)) for i, (_, high) in enumerate(band)] + [(x(i), y(low)) for i, (low, _) in reversed(list(enumerate(band)))]
        parts.append(tag("path", d=path(edge) + "Z", class_="band"))
    parts.append(tag("path", d=path([(x(i), y(v)) for i, v in known]), class_="line"))
    last = known[-1]
    parts.append(tag("circle", cx=float(x(last[0])), cy=float(y(last[1])), r=3, class_="dot"))
    return picture(width, height, *parts, label=label, class_="pic spark")


def volumes(batches: Sequence[Mapping[str, Any]], *, label: str, width: int = 240, height: int = 32) -> Markup:
    """One bar per batch, rejected ones marked."""
    if not batches:
        return Markup("")
    step, top = width / len(batches), max(float(b["rows"]) for b in batches) or 1.0
    bars = []
    for i, batch in enumerate(batches):
        tall = max(1.5, float(batch["rows"]) / top * (height - 2))
        mark = "bar bad" if batch["status"] == "rejected" else "bar"
        bars.append(tag("rect", x=i * step, y=height - tall, width=max(step - 1, 1.0), height=tall, class_=mark))
    return picture(width, height, *bars, label=label, class_="pic bars")


def histogram(edges: Sequence[float], counts: Sequence[float], *, label: str, width: int = 220, height: int = 56) -> Markup:
    """Counts between edges; the bars are as wide as their bins are equal."""
    if not counts:
        return Markup("")
    top, step = max(counts) or 1, width / len(counts)
    bars = [
        tag("rect", tag("title", f"{low:.4g} to {high:.4g}: {count:,.0f}"), x=i * step, y=height - count / top * (height - 2), width=max(step - 1, 0.8),
            height=max(count / top * (height - 2), 0.6), class_="bar")
        for i, (low, high, count) in enumerate(zip(edges[:-1], edges[1:], counts, strict=False))
    ]  # fmt: skip
    return picture(width, height, *bars, label=label, class_="pic bars")


def shares(parts: Sequence[tuple[str, str, float]], *, label: str, width: int = 480, height: int = 22) -> Markup:
    """A whole split in parts: (name, class, share of one)."""
    left, drawn = 0.0, []
    for name, mark, share in parts:
        wide = share * width
        drawn.append(
            tag(
                "rect",
                tag("title", f"{name}: {share:.0%}"),
                x=left,
                y=0,
                width=max(wide - 2, 0.0),
                height=height,
                rx=3,
                class_=f"share {mark}",
            )
        )
        text = f"{name} {share:.0%}"
        if wide > 9 * len(text):
            drawn.append(tag("text", text, x=left + 8, y=height / 2 + 4, class_=f"share-text {mark}"))
        left += wide
    return picture(width, height, *drawn, label=label, class_="pic shares")
