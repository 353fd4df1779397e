"""What a table should look like, what it does look like, and where the two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa

ColumnKind = Literal["number", "text", "boolean", "time"]
Rule = Literal["missing_column", "unexpected_column", "type", "null_fraction", "range", "domain", "quantiles", "unique", "rows"]


@dataclass(frozen=True, slots=True)
class ColumnRules:
    """What one column must satisfy; a None rule is not checked.

    `null_fraction`: greatest share of nulls (0 to 1). `low`, `high`: inclusive bounds (numbers; times as microseconds).
    `domain`: allowed texts; `outside`: greatest share of values outside the bounds or the domain (a share above zero always allows one row). `quantiles`: {"0.5": [low, high]} bounds of the batch's quantiles.
    """

    name: str
    kind: ColumnKind
    required: bool = True
    null_fraction: float | None = None
    low: float | None = None
    high: float | None = None
    domain: tuple[str, ...] | None = None
    outside: float = 0.0
    quantiles: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableSchema:
    """Rules of a table. `unique`: columns whose combination identifies a row within a batch; `inferred_from` says from which rows."""

    table: str
    columns: tuple[ColumnRules, ...]
    unique: tuple[str, ...] = ()
    allow_new_columns: bool = False
    inferred_from: str = ""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One broken rule. `expected` and `observed` are short texts for people; `rows` counts the rows that break it (0: the batch as a whole)."""

    column: str
    rule: Rule
    expected: str
    observed: str
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """What validation says of a batch: it passes when there are no anomalies."""

    anomalies: tuple[Anomaly, ...]
    profile: Profile | None = None

    @property
    def passed(self) -> bool:
        """Whether the batch may be published."""
        return not self.anomalies


class Profile(Protocol):
    """A mergeable statistical summary of rows, column by column."""

    rows: int

    def merge(self, other: Profile) -> Profile:
        """The summary of both sets of rows together; neither argument changes."""
        ...

    def to_bytes(self) -> bytes:
        """A stable serialisation; `Profiler.load` reads it."""
        ...

    def column(self, name: str) -> Mapping[str, Any]:
        """Figures of one column: kind, n (values that are not null), nulls (NaN is one), and for numbers min, max, mean, std, quantiles {"0.05": …}, histogram {"edges", "counts"}; for texts distinct and top [[value, n], …]."""
        ...

    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        ...

    def distance(self, other: Profile, column: str) -> float:
        """Population stability index of `other` (the newer rows) against this baseline; bins come from the baseline alone, nulls are a bin."""
        ...


class Profiler(Protocol):
    """Makes profiles.

    Guarantees, each checked by `tidemill.testing.validation.ProfilerContract`:
        mergeable: profile(a).merge(profile(b)) equals profile(a + b): counts, nulls, min, max exactly; mean and std to 1e-9; quantile ranks within 0.02.
        lossless: load(p.to_bytes()) answers as p does.
        total: every Arrow column type gets a profile; an empty table has one too.
        repeatable: equal rows give equal bytes, so a replay of history writes the same profiles.
    """

    def profile(self, rows: pa.Table, columns: Sequence[str] | None = None) -> Profile:
        """Summarise `rows` in one pass."""
        ...

    def load(self, body: bytes) -> Profile:
        """Read a profile back. Raises `InvalidError` for other bytes."""
        ...


class SchemaStore(Protocol):
    """Table schemas that people can read and curate.

    Guarantees, each checked by `tidemill.testing.validation.SchemaStoreContract`:
        faithful: what is saved is found again, equal.
        curated: `save` never overwrites a schema that a person has edited since, unless told to.
    """

    def find(self, table: str) -> TableSchema | None:
        """The schema of a table, None when there is none yet. Raises `ConfigError` naming file and key."""
        ...

    def save(self, schema: TableSchema, *, overwrite: bool = False) -> None:
        """Store a schema. Raises `ConflictError` where a person's edit would be lost."""
        ...
