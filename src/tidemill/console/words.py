"""How values are written for people: times, ages, numbers, digests. Every template filter is here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tidemill.core.instants import DAY_US, HOUR_US, SECOND_US, format_duration, from_us

MINUS, DASH = "−", "–"
_MISSING = {
    "ledger": "The ledger does not answer",
    "online_store": "Features cannot be read",
    "prediction_log": "Predictions cannot be logged",
    "model": "A version cannot be loaded",
    "certificate": "The certificate cannot be renewed",
}
_INSTANT = re.compile(r"\b[12]\d{15}\b")
_STEPS = ((DAY_US, "d"), (HOUR_US, "h"), (60 * SECOND_US, "min"), (SECOND_US, "s"))


def when(us: int | None) -> str:
    """`2013-04-18 23:54`, UTC."""
    return DASH if us is None else from_us(us).strftime("%Y-%m-%d %H:%M")


def day(us: int | None) -> str:
    """`18 Apr 2013`."""
    return DASH if us is None else f"{from_us(us).day} {from_us(us):%b %Y}"


def ago(us: int | None, now_us: int) -> str:
    """How long before `now_us`, in one unit: `3 h`, `just now`; `in 2 d` for what is ahead."""
    if us is None:
        return "never"
    away = abs(now_us - us)
    if away >= 730 * DAY_US:
        text = f"{away // (365 * DAY_US)} y"
    else:
        text = next((f"{away // unit} {name}" for unit, name in _STEPS if away >= unit), "")
    if not text:
        return "just now"
    return text if us <= now_us else f"in {text}"


def number(value: Any, digits: int = 3) -> str:
    """A figure with a real minus, thousands apart, at most `digits` behind the point; a dash for nothing."""
    if value is None or value != value:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) >= 10):
        return f"{int(value):,}".replace("-", MINUS)
    if isinstance(value, float):
        if value and (abs(value) < 10**-digits or abs(value) >= 1e9):
            return f"{value:.2e}".replace("-", MINUS)
        return f"{value:,.{digits}f}".replace("-", MINUS)
    return str(value)


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, always with its sign."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def percent(value: float | None, digits: int = 0) -> str:
    """A share of one as percent."""
    return DASH if value is None else f"{value:.{digits}%}"


def short(text: str | None, keep: int = 10) -> str:
    """The telling part of an id or a digest."""
    if not text:
        return DASH
    bare = text.removeprefix("sha256:")
    return bare if len(bare) <= keep + 6 else (bare[: keep + bare.find("-") + 1] if "-" in bare[:12] else bare[:keep])


def size(count: int | None) -> str:
    """Bytes."""
    if count is None:
        return DASH
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return DASH


def seconds(value: float | None) -> str:
    """A measured duration given in seconds."""
    if value is None:
        return DASH
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1000:.0f} ms" if value >= 0.01 else f"{value * 1000:.1f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def milliseconds(value: float | None) -> str:
    """A measured duration given in milliseconds."""
    return seconds(None if value is None else value / 1000)


def span(us: int | None) -> str:
    """A defined duration: `3h`."""
    return DASH if not us else format_duration(us)


def plain(value: Any) -> str:
    """A word of the ledger as prose: `rolled_back` becomes `rolled back`."""
    return str(value).replace("_", " ")


def compact(value: Any, keep: int = 160) -> str:
    """A JSON value on one line, cut where it gets long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str)
    return text if len(text) <= keep else f"{text[: keep - 1]}…"


def happened(event: Mapping[str, Any]) -> str:
    """An event of the audit log in a few words."""
    body = event.get("body") or {}
    if event["kind"] == "decision":
        return f"{plain(body.get('kind', 'decision'))}: {plain(body.get('outcome', ''))}"
    if event["kind"] == "cause":
        return f"retraining, by {plain(body.get('kind', ''))}"
    return plain(event["kind"]).replace(".", " ")


def because(cause: Mapping[str, Any] | None) -> str:
    """A recorded cause in a few words; what has no words of ours is shown as it is."""
    if not cause:
        return DASH
    if cause.get("kind"):
        return plain(cause["kind"])
    if cause.get("replaces"):
        return f"to replace v{cause['replaces']}"
    if "champion" in cause:
        return f"against v{cause['champion']}" if cause["champion"] else "there was no champion"
    if cause.get("batch"):
        return f"batch {short(str(cause['batch']), 8)}"
    return "passed the gate" if cause.get("decision") else compact(cause, 60)


def missing(cause: str) -> str:
    """What a server has to do without, by its cause."""
    return _MISSING[cause]


def timed(text: str) -> str:
    """Text with instants of this century, which are sixteen digits long, written as times."""
    return _INSTANT.sub(lambda found: when(int(found[0]) + 1), text)  # a bound is often the last microsecond before


def value(given: Any) -> str:
    """A feature's or label's value: four digits behind the point at most, and no zeros at the end."""
    text = number(given, 4)
    return text.rstrip("0").rstrip(".") if isinstance(given, float) and "." in text and "e" not in text else text


FILTERS = {
    f.__name__: f
    for f in (
        when,
        day,
        ago,
        number,
        signed,
        percent,
        short,
        size,
        seconds,
        milliseconds,
        span,
        plain,
        compact,
        happened,
        because,
        missing,
        timed,
        value,
    )
}
