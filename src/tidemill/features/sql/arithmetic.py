"""Pieces of SQL arithmetic that are exact in DuckDB and in Spark."""

from __future__ import annotations


def floor(x: str, grid: str) -> str:
    """The greatest multiple of `grid` that is not above `x`, both whole; `%` truncates in SQL."""
    return f"({x} - ({x} % {grid} + {grid}) % {grid})"


def ceil(x: str, grid: str) -> str:
    """The least multiple of `grid` that is not below `x`, both whole."""
    return f"({x} + (-{x} % {grid} + {grid}) % {grid})"


def leaves(over: str, hop: str) -> str:
    """The time from which an event is no longer in the window: the least t with event <= floor(t - over, hop)."""
    return f"{ceil('_event', hop)} + {over}"


def shifted(x: str, by: str) -> str:
    """`x * 2^by` in two steps, since a power beyond the range of floats may meet a number at its other end."""
    near = f"GREATEST(LEAST({by}, 900), -900)"
    return f"{x} * POWER(2, {near}) * POWER(2, {by} - {near})"


def whole(number: int) -> str:
    """A whole number that may be beyond 64 bits."""
    return f"CAST({number} AS DECIMAL(38, 0))"


def float_(number: float) -> str:
    """A float64 literal, which a decimal point alone would not be."""
    text = repr(float(number))
    return text if "e" in text else f"{text}E0"
