"""The ranges that a search draws from."""

from typing import Any

from tidemill.core.errors import InvalidError
from tidemill.tuning.ports import Range


def integer(low: int, high: int) -> Range:
    """Whole numbers from `low` to `high`, both included."""
    _ordered(low, high)
    return Range("integer", low, high)


def real(low: float, high: float) -> Range:
    """Numbers from `low` to `high`."""
    _ordered(low, high)
    return Range("real", float(low), float(high))


def log(low: float, high: float) -> Range:
    """Positive numbers from `low` to `high`, drawn evenly on a logarithmic scale."""
    _ordered(low, high)
    if low <= 0:
        raise InvalidError(f"log({low}, {high}) needs a lower end above 0; use real for ranges that touch it")
    return Range("log", float(low), float(high))


def choice(*choices: Any) -> Range:
    """One of these values (texts, numbers, booleans or None)."""
    if not choices:
        raise InvalidError("choice() needs at least one value")
    return Range("choice", choices=choices)


def _ordered(low: float, high: float) -> None:
    if not low <= high:
        raise InvalidError(f"the range from {low} to {high} is empty; write the lower end first")
