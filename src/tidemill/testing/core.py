"""What every `Clock` must keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidemill.core.clock import Clock
from tidemill.testing.contract import Contract


class ClockContract(Contract):
    """Supply `clock`, and `pass_by(us)`: it lets so much time pass for the clock, or tries to, when negative."""

    @pytest.fixture
    def clock(self) -> Clock:
        """The clock under test."""
        raise TypeError("supply a clock fixture")

    @pytest.fixture
    def pass_by(self) -> Callable[[int], None]:
        """Moves the time that the clock tells."""
        raise TypeError("supply a pass_by fixture")

    def test_monotone_when_time_steps_back(self, clock: Clock, pass_by: Callable[[int], None]) -> None:
        told = [clock.now_us()]
        for us in (5, 0, 1_000_000, -400_000, -1, 10, 2_000_000, -3_000_000, 1):
            pass_by(us)
            told.append(clock.now_us())
        assert told == sorted(told)
        assert told[1] - told[0] == 5
        assert told[3] - told[2] == 1_000_000
        assert told[-1] > told[3]
