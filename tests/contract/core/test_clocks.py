"""Both clocks keep the promise of a clock."""

import time
from collections.abc import Callable

import pytest

from tidemill.core.clock import Clock, ReplayClock, WallClock
from tidemill.core.errors import InvalidError
from tidemill.testing.core import ClockContract


class TestReplayClock(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return ReplayClock(10**15)

    @pytest.fixture
    def pass_by(self, clock: ReplayClock) -> Callable[[int], None]:
        def pass_by(us: int) -> None:
            if us < 0:
                with pytest.raises(InvalidError, match="cannot go back"):
                    clock.advance_to(clock.now_us() + us)
            else:
                clock.advance_to(clock.now_us() + us)

        return pass_by


class TestWallClock(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return WallClock()

    @pytest.fixture
    def pass_by(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        now = [1_700_000_000_000_000_000]
        monkeypatch.setattr(time, "time_ns", lambda: now[0])

        def pass_by(us: int) -> None:
            now[0] += us * 1000

        return pass_by
