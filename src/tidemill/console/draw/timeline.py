"""Source rows against time: each a line from when it happened to when it was known; the cut is the instant that was asked about."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tidemill.console.draw.svg import picture, scale, tag
from tidemill.console.words import plain, when

WIDTH, ROW, LEFT, SHOWN = 940, 10, 8, 40


def timeline(rows: Sequence[tuple[int, int, str]], at_us: int) -> Markup:
    """Draw (event_us, known_us, use) rows, oldest first."""
    if not rows:
        return Markup("")
    shown = sorted(sorted(rows, key=lambda r: abs(r[0] - at_us))[:SHOWN])
    first, last = min(r[0] for r in shown), max(max(r[0], r[1]) for r in shown)
    x = scale(min(first, at_us), max(last, at_us), LEFT + 4, WIDTH - 12)
    bottom = len(shown) * ROW + 26
    parts = [
        tag("rect", x=x(at_us), y=0, width=WIDTH - x(at_us), height=bottom - 16, class_="ahead"),
        tag("line", x1=x(at_us), x2=x(at_us), y1=0, y2=bottom - 16, class_="cut"),
        tag("text", f"asked at {when(at_us)}", x=min(max(x(at_us), 70), WIDTH - 80), y=bottom - 2, text_anchor="middle", class_="note"),
    ]
    for i, (event_us, known_us, use) in enumerate(shown):
        y = 10 + i * ROW
        said = f"happened {when(event_us)}, known {when(known_us)}: {plain(use)}"
        parts.append(
            tag("g", tag("title", said), tag("line", x1=x(event_us), x2=x(known_us), y1=y, y2=y, class_="reach"),
                tag("circle", cx=float(x(event_us)), cy=y, r=4, class_="happened"), tag("rect", x=x(known_us) - 2, y=y - 4, width=4, height=8, class_="known"),
                class_=f"source {use}")
        )  # fmt: skip
    return picture(WIDTH, bottom, *parts, label=f"{len(shown)} source rows around {when(at_us)}", class_="pic timeline")
