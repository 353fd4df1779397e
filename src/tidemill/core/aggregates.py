"""What a feature is computed as: an aggregate of a column over a window, its latest value, or an expression over other features of its view.

One rule for all of them. A window at time t covers event times in `(floor(t - over, hop), t]`. Only rows that count at t (known, happened,
not superseded) and for which `where` holds are looked at; a `where` that is null does not hold. Nulls, NaN and infinities are no values:
every kind but `latest` passes over them. Times inside `where` are plain UTC. An answer is null where there is no value; a count is 0.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from tidemill.core.errors import InvalidError
from tidemill.core.instants import format_duration, parse_duration

Kind = Literal["count", "sum", "mean", "std", "min", "max", "first", "last", "distinct", "quantile", "top", "latest", "expression"]
NUMERIC: frozenset[Kind] = frozenset({"sum", "mean", "std", "min", "max", "quantile"})
"""Kinds that need a column of numbers (booleans are 0 and 1)."""
MOST_TOP = 20
"""The most values that `top_k` gives."""
Durations = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One feature of a view.

    Attributes:
        kind: how it is computed.
        column: of what; None for a count of rows and for an expression.
        over_us: width of the window; 0 for `latest` and expressions.
        hop_us: what the window's far end is aligned to; divides `over_us`.
        ttl_us: greatest age of a `latest` value.
        name: the feature's name in its view; made from the rest when empty.
        where: SQL condition on the table's row, without it every row counts.
        q: which quantile, 0 to 1.
        rank: which of the most frequent values, from 1.
        expression: arithmetic over names of features of the same view.
    """

    kind: Kind
    column: str | None
    over_us: int = 0
    hop_us: int = 0
    ttl_us: int = 0
    name: str = ""
    where: str = ""
    q: float = 0.0
    rank: int = 0
    expression: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("latest", "expression") and (self.hop_us <= 0 or self.over_us % self.hop_us):
            raise InvalidError(f"hop {format_duration(self.hop_us)} does not divide the window {format_duration(self.over_us)}")
        if not self.name:
            object.__setattr__(self, "name", self._made_name())

    def _made_name(self) -> str:
        if self.kind == "latest":
            return str(self.column)
        word = {"quantile": f"p{self.q * 100:g}".replace(".", "_"), "top": f"top{self.rank}"}.get(self.kind, self.kind)
        stem = f"{self.column}_{word}" if self.column else word
        return f"{stem}_{format_duration(self.over_us)}"

    @property
    def windowed(self) -> bool:
        """Whether it looks at a window (all but `latest` and expressions)."""
        return self.kind not in ("latest", "expression")


Features = Aggregate | tuple[Aggregate, ...]
"""One feature, or one for each of several windows."""
_HOPS = (36, 30, 24, 20, 18, 12, 10, 8, 6, 5, 4, 3, 2, 1)
"""Into how many hops a window is cut when nobody says: the first that divides it."""


def spelled(a: Aggregate) -> str:
    """A feature as a person would read its definition."""
    if a.kind == "expression":
        return a.expression
    where = f" where {a.where}" if a.where else ""
    if a.kind == "latest":
        return f"latest({a.column}{where}, ttl {format_duration(a.ttl_us)})"
    more = {"quantile": f", {a.q:g}", "top": f", rank {a.rank}"}.get(a.kind, "")
    return f"{a.kind}({a.column or '*'}{more}{where} over {format_duration(a.over_us)}, hop {format_duration(a.hop_us)})"


def _windows(kind: Kind, column: str | None, over: Durations, hop: str | None, name: str, where: str, **more: Any) -> Features:
    """An aggregate for each window of `over`; a single text gives a single aggregate."""
    widths = [over] if isinstance(over, str) else list(over)
    if not widths:
        raise InvalidError(f"{kind}() needs at least one window: over='3h' or over=('1h', '24h')")
    if name and len(widths) > 1:
        raise InvalidError(f"{kind}() with several windows makes several features; leave name= out, or define them one by one")
    made = []
    for width in widths:
        over_us = parse_duration(width)
        hop_us = parse_duration(hop) if hop else over_us // next(n for n in _HOPS if over_us % n == 0)
        made.append(Aggregate(kind, column, over_us=over_us, hop_us=hop_us, name=name, where=where, **more))
    return made[0] if isinstance(over, str) else tuple(made)


def mean(column: str, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """Mean of the values in the window; null where there is none."""
    return _windows("mean", column, over, hop, name, where)


def sum_(column: str, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """Sum of the values in the window; null where there is none. Public as `tidemill.sum`."""
    return _windows("sum", column, over, hop, name, where)


def count(column: str | None = None, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """Number of rows in the window (of those where `column` is not null, if one is given), 0 where there is none."""
    return _windows("count", column, over, hop, name, where)


def std(column: str, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """Standard deviation of the values in the window, with n - 1; null for fewer than two values. Free of cancellation."""
    return _windows("std", column, over, hop, name, where)


def min_(column: str, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """Least value in the window. Public as `tidemill.min`."""
    return _windows("min", column, over, hop, name, where)


def max_(column: str, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """Greatest value in the window. Public as `tidemill.max`."""
    return _windows("max", column, over, hop, name, where)


def first(column: str, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """The value with the least event time in the window (ties: least known time, then the order of ingestion). Any type of column."""
    return _windows("first", column, over, hop, name, where)


def last(column: str, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """The value with the greatest event time in the window (ties as in `latest`). Unlike `latest` it passes over nulls."""
    return _windows("last", column, over, hop, name, where)


def distinct(column: str, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """Number of different values in the window: exact up to 1,024, estimated beyond (standard error 3 %).

    The sketch keeps the least 1,024 hashes of values (Bar-Yossef et al., *Counting Distinct Elements in a Data Stream*, 2002), so it
    depends on the set of values alone: tiles merge, and offline and online agree whatever the order. Texts, integers and booleans.
    """
    return _windows("distinct", column, over, hop, name, where)


def quantile(column: str, q: float, *, over: Durations, hop: str | None = None, where: str = "", name: str = "") -> Features:
    """The value of rank ceil(q n) in the window (the least for q = 0), at most 0.4 % nearer to zero; whole numbers up to 512 are exact.

    Values are counted in buckets of 1/256 of a power of two, as in HdrHistogram, and the bucket's edge is answered. Counts can be
    added, merged and taken back again, which those of KLL and t-digest cannot, so corrections need no second look at the rows. What is nearer to
    zero than 2.3e-308, where floats lose their digits, may be answered as 0.
    """
    if not 0 <= q <= 1:
        raise InvalidError(f"quantile {q} of {column!r} is outside 0 to 1; the median is 0.5")
    return _windows("quantile", column, over, hop, name, where, q=float(q))


def top_k(column: str, k: int, *, over: Durations, hop: str | None = None, where: str = "") -> tuple[Aggregate, ...]:
    """The `k` most frequent values in the window, one feature each (`COLUMN_top1_…` first); ties go to the lesser value. Exact.

    Texts, integers and booleans. Null where there are fewer values.
    """
    if not 1 <= k <= MOST_TOP:
        raise InvalidError(f"top_k of {column!r}: k is {k}; it must be 1 to {MOST_TOP}")
    widths = [over] if isinstance(over, str) else list(over)
    made: list[Aggregate] = []
    for width in widths:
        for rank in range(1, k + 1):
            one = _windows("top", column, width, hop, "", where, rank=rank)
            made += one if isinstance(one, tuple) else [one]
    return tuple(made)


def latest(*columns: str, ttl: str, where: str = "") -> tuple[Aggregate, ...]:
    """The newest value of each column (nulls count as values), null once older than `ttl`."""
    if not columns:
        raise InvalidError("latest() needs at least one column")
    return tuple(Aggregate("latest", column, ttl_us=parse_duration(ttl), where=where) for column in columns)


def expression(name: str, formula: str) -> Aggregate:
    """Arithmetic over other features of the view: `expression("trend", "amount_mean_1h / amount_mean_24h")`.

    Numbers, names of features, + - * / and parentheses. Null where a feature is null, where it divides by zero and where the result is
    not finite.
    """
    names_in(formula)
    return Aggregate("expression", None, name=name, expression=formula)


_ALLOWED = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.USub,
    ast.UAdd,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.Name,
    ast.Load,
    ast.Constant,
)


def parse_formula(formula: str) -> ast.Expression:
    """The tree of an expression. Raises `InvalidError` for anything but arithmetic."""
    try:
        tree = ast.parse(formula, mode="eval")
    except SyntaxError as error:
        raise InvalidError(f"the expression {formula!r} is not arithmetic: {error.msg}; write for example 'a / (b + 1)'") from None
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)
        if not isinstance(node, _ALLOWED) or (isinstance(node, ast.Constant) and not number):
            what = ast.get_source_segment(formula, node) if isinstance(node, ast.expr) else type(node).__name__
            raise InvalidError(f"the expression {formula!r} has {what}; only numbers, features, + - * / and parentheses are understood")
    return tree


@lru_cache(1024)
def names_in(formula: str) -> tuple[str, ...]:
    """The features that an expression reads, in order of appearance."""
    return tuple(dict.fromkeys(_names(parse_formula(formula))))


def _names(tree: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
