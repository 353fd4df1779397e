"""Source rows against time: each a line from when it happened to when it was known; the cut is the instant that was asked about.

Windows stand below as bars, from where they begin (aligned to their hop) to the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from tidemill.console.draw.svg import picture, scale, tag
from tidemill.console.words import plain, when

WIDTH, ROW, LEFT, SHOWN = 940, 10, 8, 40
Window = tuple[str, int]
"""What it is called, and where it begins, in microseconds; its beginning is not in it."""


def timeline(rows: Sequence[tuple[int, int, str]], at_us: int, windows: Sequence[Window] = ()) -> Markup:
    """Draw (event_us, known_us, use) rows, oldest first, and the windows that look at them."""
    if not rows:
        return Markup("")
    shown = sorted(sorted(rows, key=lambda r: abs(r[0] - at_us))[:SHOWN])
    begun = [low for _, low in windows]
    first, last = min(*(r[0] for r in shown), *begun, at_us), max(max(r[0], r[1], at_us) for r in shown)
    x = scale(first, last, LEFT + 4, WIDTH - 12)
    floor = len(shown) * ROW + 10
    bottom = floor + len(windows) * 16 + 16
    parts = [
        tag("rect", x=x(at_us), y=0, width=WIDTH - x(at_us), height=bottom - 16, class_="ahead"),
        *(part for i, window in enumerate(windows) for part in _window(window, x, at_us, floor, i)),
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


def _window(window: Window, x: Callable[[int], float], at_us: int, floor: int, place: int) -> list[Markup]:
    """A bar below the rows and its reach over them."""
    name, low_us = window
    left, right, y = x(low_us), x(at_us), floor + place * 16
    said = tag("title", f"{name}: happened after {when(low_us)}, up to {when(at_us)}")
    return [
        tag("rect", said, x=left, y=0, width=max(right - left, 1.0), height=floor, class_="span"),
        tag("line", x1=left, x2=left, y1=0, y2=y + 6, class_="begins"),
        tag("line", said, x1=left, x2=right, y1=y + 6, y2=y + 6, class_="window"),
        tag("text", name, x=max(left + 4, LEFT + 4), y=y + 3, class_="note"),
    ]
