"""Time is an argument: everything that asks for the time is handed a `Clock`.

Two exist. `WallClock` is the present; `ReplayClock` is moved by whoever replays history. No other code
of Tidemill may ask the operating system for the time of day, so a stage cannot tell which one it has.
"""

import time
from typing import Protocol

from tidemill.core.errors import InvalidError
from tidemill.core.instants import Instant, format_instant


class Clock(Protocol):
    """Says what time it is.

    Guarantees, each checked by `tidemill.testing.core.ClockContract`:
        monotone: a later call never answers an earlier instant.
    """

    def now_us(self) -> Instant:
        """Microseconds since the epoch, UTC."""
        ...


class WallClock:
    """The present, never stepping back when the system's clock does."""

    def __init__(self) -> None:
        self._last = 0

    def now_us(self) -> Instant:
        """The system's time, or the last answer if the system stepped back."""
        self._last = max(self._last, time.time_ns() // 1000)
        return Instant(self._last)


class ReplayClock:
    """A clock that stands still until it is moved forward."""

    def __init__(self, start_us: int) -> None:
        self._now = start_us

    def now_us(self) -> Instant:
        """The instant it was last moved to."""
        return Instant(self._now)

    def advance_to(self, us: int) -> None:
        """Move forward to `us`; moving backward is an `InvalidError`."""
        if us < self._now:
            raise InvalidError(f"a clock cannot go back from {format_instant(self._now)} to {format_instant(us)}")
        self._now = us
