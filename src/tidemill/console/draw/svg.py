"""SVG elements whose text and attributes are always escaped."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element. `class_` is class, `_` in other names becomes `-`; attributes that are None are left out; floats are rounded."""
    parts = [f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"' for key, value in attributes.items() if value is not None]
    body = Markup("").join(escape(child) for child in children)
    return Markup(f"<{name}{''.join(parts)}>{body}</{name}>")  # noqa: S704 -- every part is escaped above


def _text(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def picture(width: float, height: float, *children: Any, label: str, class_: str = "pic", grows: bool = True) -> Markup:
    """An image with a name for those who cannot see it; it scales to its box, unless it is not to grow beyond its own size."""
    return tag(
        "svg",
        tag("title", label),
        *children,
        width=None if grows else float(width),
        viewBox=f"0 0 {_text(float(width))} {_text(float(height))}",
        role="img",
        class_=class_,
        aria_label=label,
    )


def scale(low: float, high: float, start: float, end: float) -> Any:
    """A linear map of [low, high] to [start, end]; a range without width maps to the middle."""
    width = high - low
    return lambda value: (start + end) / 2 if width == 0 else start + (value - low) / width * (end - start)


def path(points: list[tuple[float, float]]) -> str:
    """A polyline's path data."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
