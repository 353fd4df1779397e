"""Evidence as a picture: an effect with its interval against zero, and the differences it is made of."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tidemill.console.draw.svg import picture, scale, tag

WIDTH, LEFT, RIGHT = 640, 120, 620


def interval(
    effect: float,
    low: float | None,
    high: float | None,
    blocks: Sequence[tuple[str, float]],
    *,
    margin: float = 0.0,
    unit: str = "log loss",
) -> Markup:
    """The blocks' differences as dots, the effect's interval as a bar, zero as a line. Left of zero the challenger is better."""
    shown = list(blocks)[:40]
    ends = [e for e in (effect, low, high, 0.0, margin, *(v for _, v in shown)) if e is not None and abs(e) < 1e9]
    reach = max(abs(min(ends)), abs(max(ends))) * 1.12 or 1.0
    x = scale(-reach, reach, LEFT, RIGHT)
    row = 15 if len(shown) > 12 else 20
    bottom = 24 + row * len(shown) + 44
    parts = [
        tag("rect", x=LEFT, y=0, width=x(0) - LEFT, height=bottom - 20, class_="better"),
        tag("text", "challenger better", x=x(0) - 8, y=12, text_anchor="end", class_="note tide"),
        tag("text", "champion better", x=x(0) + 8, y=12, class_="note"),
        tag("line", x1=x(0), x2=x(0), y1=0, y2=bottom - 20, class_="zero"),
    ]
    if margin:
        parts += [
            tag("line", x1=x(margin), x2=x(margin), y1=18, y2=bottom - 20, class_="margin"),
            tag("text", "margin", x=x(margin) + 4, y=28, class_="note"),
        ]
    for i, (name, value) in enumerate(shown):
        y = 32 + row * i
        parts.append(tag("text", name, x=LEFT - 10, y=y + 4, text_anchor="end", class_="note"))
        parts.append(tag("line", x1=x(0), x2=x(value), y1=y, y2=y, class_="stem"))
        parts.append(
            tag(
                "circle", tag("title", f"{name}: {value:+.4f}"), cx=float(x(value)), cy=y, r=3.5, class_="dot" if value < 0 else "dot plain"
            )
        )
    y = bottom - 38
    parts.append(tag("text", "effect", x=LEFT - 10, y=y + 4, text_anchor="end", class_="note strong"))
    if low is not None and high is not None:
        a, b = max(x(max(low, -reach)), LEFT), min(x(min(high, reach)), RIGHT)
        parts.append(tag("rect", x=a, y=y - 5, width=max(b - a, 1.0), height=10, rx=5, class_="bar"))
    parts.append(tag("circle", cx=float(x(effect)), cy=y, r=5.5, class_="dot ringed"))
    for value in (-reach, -reach / 2, 0.0, reach / 2, reach):
        parts.append(
            tag(
                "text",
                f"{value:+.3f}".replace("-", "−") if value else "0",
                x=float(x(value)),
                y=bottom - 6,
                text_anchor="middle",
                class_="note",
            )
        )
    said = f"Effect {effect:+.4f} {unit}" + (f", interval {low:+.4f} to {high:+.4f}" if low is not None and high is not None else "")
    return picture(WIDTH, bottom, *parts, label=said, class_="pic interval")
