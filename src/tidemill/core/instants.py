"""Instants and durations as integers of microseconds, UTC.

Inside Tidemill a time is an `int` of microseconds since 1970-01-01T00:00:00Z (suffix `_us`) and in
tables it is Arrow's `timestamp('us', tz='UTC')`. People write ISO 8601 and `3h`; this module is the border.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import NewType

import tidemill.core.errors as errors

Instant = NewType("Instant", int)
"""Microseconds since the epoch, UTC."""

SECOND_US = 1_000_000
_UNITS = {"us": 1, "ms": 1_000, "s": SECOND_US, "m": 60 * SECOND_US, "h": 3600 * SECOND_US, "d": 86400 * SECOND_US, "w": 604800 * SECOND_US}
DAY_US = _UNITS["d"]
HOUR_US = _UNITS["h"]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d|w)")


def to_us(moment: datetime) -> Instant:
    """Convert an aware datetime; a naive one is an `InvalidError`, because its zone would be a guess."""
    if moment.tzinfo is None:
        raise errors.InvalidError(f"{moment.isoformat()} has no time zone; write it with one, for example {moment.isoformat()}+00:00")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Instant((delta.days * 86400 + delta.seconds) * SECOND_US + delta.microseconds)


def from_us(us: int) -> datetime:
    """Return the aware UTC datetime of `us` microseconds since the epoch."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def parse_instant(text: str) -> Instant:
    """Read ISO 8601; a date or a time without zone is UTC (files and the command line say so in their help)."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise errors.InvalidError(f"{text!r} is not an ISO 8601 time; write for example 2013-03-01 or 2013-03-01T06:30:00Z") from None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def format_instant(us: int) -> str:
    """ISO 8601 with a Z, without the microseconds when they are zero."""
    return from_us(us).isoformat().replace("+00:00", "Z")


def parse_duration(text: str) -> int:
    """Read `90s`, `5m`, `3h`, `1d`, `1h30m` as microseconds (> 0)."""
    compact = text.replace(" ", "")
    parts = _DURATION.findall(compact)
    if not parts or "".join(n + u for n, u in parts) != compact:
        raise errors.InvalidError(f"{text!r} is not a duration; write for example 30s, 5m, 3h or 1d")
    total = round(sum(float(n) * _UNITS[u] for n, u in parts))
    if total <= 0:
        raise errors.InvalidError(f"the duration {text!r} must be longer than zero")
    return total


def format_duration(us: int) -> str:
    """The shortest spelling with one unit that is exact: 10_800_000_000 becomes `3h`."""
    for unit in ("w", "d", "h", "m", "s", "ms"):
        if us % _UNITS[unit] == 0 and (unit != "w" or (us % _UNITS["w"] == 0 and us >= _UNITS["w"] * 2)):
            return f"{us // _UNITS[unit]}{unit}"
    return f"{us}us"
