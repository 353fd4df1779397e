"""Profiles: one small summary per column, mergeable, the same bytes for the same rows."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import numpy as np

from tidemill.core.errors import InvalidError, not_found
from tidemill.validation.embedded.quantiles import Floats, Quantiles
from tidemill.validation.embedded.texts import Texts
from tidemill.validation.ports import ColumnKind, Profile

RANKS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_BARS = 20
_CATEGORIES = 20
_MAGIC = b"tmp1"


class Packed(msgspec.Struct, array_like=True):
    """A column's summary as it is stored."""

    name: str
    kind: str
    n: int
    nulls: int
    low: int | float | None = None
    high: int | float | None = None
    mean: float = 0.0
    m2: float = 0.0
    parity: int = 0
    levels: list[bytes] = []
    counts: dict[str, int] | None = None
    frequent: bytes = b""
    distinct: bytes = b""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Moments and quantiles of a column of numbers or times. `mean`, `m2` and `quantiles` are over the finite values."""

    low: int | float | None = None
    high: int | float | None = None
    mean: float = 0.0
    m2: float = 0.0
    quantiles: Quantiles = field(default_factory=Quantiles)

    def merge(self, other: "Numbers") -> "Numbers":
        """Both together; moments by Chan, Golub and LeVeque (1979)."""
        a, b = self.quantiles.n, other.quantiles.n
        mean, m2 = self.mean, self.m2
        if b:
            delta = other.mean - self.mean if a else other.mean
            mean = self.mean + delta * b / (a + b) if a else other.mean
            m2 = self.m2 + other.m2 + (delta * delta * a * b / (a + b) if a else 0.0)
        lows = [v for v in (self.low, other.low) if v is not None]
        highs = [v for v in (self.high, other.high) if v is not None]
        return Numbers(min(lows, default=None), max(highs, default=None), mean, m2, self.quantiles.merge(other.quantiles))


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `n` values and `nulls` (NaN is one), with numbers or texts summarised."""

    kind: ColumnKind
    n: int
    nulls: int
    body: Numbers | Texts

    def merge(self, other: "Column") -> "Column":
        """Both together. Columns of unlike kinds keep the kind of the one that has values, else they cannot be merged."""
        if self.kind != other.kind:
            if self.n and other.n:
                raise InvalidError(f"a column cannot be a {self.kind} in one profile and a {other.kind} in the other")
            keep = self if self.n else other
            return Column(keep.kind, keep.n, self.nulls + other.nulls, keep.body)
        merge: Any = self.body.merge  # of one kind, so both bodies are of one class
        return Column(self.kind, self.n + other.n, self.nulls + other.nulls, merge(other.body))

    def facts(self) -> dict[str, Any]:
        """What `Profile.column` answers."""
        out: dict[str, Any] = {"kind": self.kind, "n": self.n, "nulls": self.nulls}
        if isinstance(self.body, Texts):
            return out | {"distinct": self.body.distinct, "top": [[value, n] for value, n in self.body.top(_CATEGORIES)]}
        numbers, finite = self.body, self.body.quantiles.n
        out |= {"min": numbers.low, "max": numbers.high, "mean": None, "std": None, "quantiles": {}}
        if finite:
            out |= {"mean": numbers.mean, "std": math.sqrt(max(numbers.m2, 0.0) / finite)}
            at = numbers.quantiles.at(np.array(RANKS))
            out["quantiles"] = {str(rank): float(value) for rank, value in zip(RANKS, at, strict=True)}
        return out | {"histogram": _histogram(numbers)}

    def shares(self, baseline: "Column") -> Floats:
        """Share of the rows in each of the baseline's bins; the last bin is the nulls. Half a row is added to every bin."""
        if isinstance(baseline.body, Numbers):
            edges = _deciles(baseline.body.quantiles)
            body = self.body if isinstance(self.body, Numbers) else Numbers()
            reached = np.concatenate([[0.0], body.quantiles.below(edges), [body.quantiles.n]])
            counts = np.diff(reached)
        else:
            values = [value for value, _ in baseline.body.top(_CATEGORIES)]
            known = self.body.counts(values) if isinstance(self.body, Texts) else [0] * len(values)
            counts = np.array([*known, max(self.n - sum(known), 0)], dtype=np.float64)
        counts = np.append(counts, self.nulls) + 0.5
        out: Floats = counts / counts.sum()
        return out

    def packed(self, name: str) -> Packed:
        """For storage."""
        if isinstance(self.body, Texts):
            counts, frequent, distinct = self.body.pack()
            return Packed(name, self.kind, self.n, self.nulls, counts=counts, frequent=frequent, distinct=distinct)
        b = self.body
        parity, levels = b.quantiles.pack()
        return Packed(name, self.kind, self.n, self.nulls, b.low, b.high, b.mean, b.m2, parity=parity, levels=levels)


class SketchProfile:
    """A `Profile` whose columns are exact counts and moments, deterministic quantile levels and text counts."""

    def __init__(self, rows: int, columns: Mapping[str, Column]) -> None:
        """`rows` summarised, by column."""
        self.rows = rows
        self._columns = dict(columns)
        self._facts: dict[str, dict[str, Any]] = {}

    def merge(self, other: Profile) -> "SketchProfile":
        """Both together; a column that one side lacks counts as null there."""
        if not isinstance(other, SketchProfile):
            raise InvalidError(f"cannot merge a {type(other).__name__} into a SketchProfile; load it with the same profiler")
        names = dict.fromkeys([*self._columns, *other._columns])
        return SketchProfile(self.rows + other.rows, {n: self._get(n, other).merge(other._get(n, self)) for n in names})

    def _get(self, name: str, beside: "SketchProfile") -> Column:
        if name in self._columns:
            return self._columns[name]
        like = beside._columns[name]
        return Column(like.kind, 0, self.rows, Numbers() if isinstance(like.body, Numbers) else Texts({}))

    def to_bytes(self) -> bytes:
        """A magic number, then compressed MessagePack."""
        body = msgspec.msgpack.encode((self.rows, [c.packed(name) for name, c in self._columns.items()]))
        return _MAGIC + zlib.compress(body, 1)

    def column(self, name: str) -> Mapping[str, Any]:
        """Figures of one column; `n` counts the values that are not null. Raises `NotFoundError`."""
        if name not in self._facts:
            self._facts[name] = self._column(name).facts()
        return self._facts[name]

    def _column(self, name: str) -> Column:
        if name not in self._columns:
            raise not_found("column", name, self._columns)
        return self._columns[name]

    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self._columns)

    def distance(self, other: Profile, column: str) -> float:
        """Population stability index. Source: Siddiqi, Credit Risk Scorecards, 2006; half a row is added to each bin so that none is empty."""
        if not isinstance(other, SketchProfile):
            raise InvalidError(f"cannot compare with a {type(other).__name__}; load it with the same profiler")
        mine, theirs = self._column(column), other._get(column, self)
        expected, actual = mine.shares(mine), theirs.shares(mine)
        return float(np.sum((actual - expected) * np.log(actual / expected)))


def load(body: bytes) -> SketchProfile:
    """Read what `to_bytes` wrote. Raises `InvalidError` for anything else."""
    try:
        if body[:4] != _MAGIC:
            raise InvalidError("these bytes are not a profile: they do not start as one")
        rows, columns = msgspec.msgpack.decode(zlib.decompress(body[4:]), type=tuple[int, list[Packed]])
        return SketchProfile(rows, {c.name: _unpack(c) for c in columns})
    except (zlib.error, msgspec.MsgspecError, ValueError) as exc:
        raise InvalidError(f"these bytes are not a profile: {exc}") from exc


def _unpack(c: Packed) -> Column:
    if c.kind not in ("number", "time", "text", "boolean"):
        raise ValueError(f"unknown kind of column {c.kind!r}")
    body: Numbers | Texts
    if c.kind in ("number", "time"):
        body = Numbers(c.low, c.high, c.mean, c.m2, Quantiles.unpack(c.parity, c.levels))
    else:
        body = Texts(c.counts, c.frequent, c.distinct)
    return Column(cast("ColumnKind", c.kind), c.n, c.nulls, body)


def _deciles(quantiles: Quantiles) -> Floats:
    """The baseline's inner bin edges, each once; a constant has one."""
    return np.unique(quantiles.at(np.arange(1, 10) / 10)) if quantiles.n else np.empty(0)


def _histogram(numbers: Numbers) -> dict[str, list[float]]:
    """Bars of equal width over the middle 98 % of the values; the outer bars reach to the least and the greatest value."""
    if not numbers.quantiles.n:
        return {"edges": [], "counts": []}
    low, high = numbers.quantiles.at(np.array([0.01, 0.99]))
    edges = np.linspace(low, high, _BARS + 1) if low < high else np.array([low, high])
    reached = numbers.quantiles.below(edges)
    reached[0], reached[-1] = 0, numbers.quantiles.n
    edges[0], edges[-1] = min(edges[0], _bound(numbers.low, edges[0])), max(edges[-1], _bound(numbers.high, edges[-1]))
    return {"edges": edges.tolist(), "counts": np.diff(reached).tolist()}


def _bound(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or math.isinf(value) else float(value)
