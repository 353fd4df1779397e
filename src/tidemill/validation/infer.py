"""A first schema for a table, from rows that are taken to be good; people curate it from there."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.validation.kinds import as_us, kind_of
from tidemill.validation.ports import ColumnRules, TableSchema

RANKS = ("0.05", "0.5", "0.95")
RANGE_OUTSIDE = 0.02
DOMAIN_OUTSIDE = 0.05
DOMAIN_SIZE = 200
QUANTILE_SLACK = 3.0
_FEW = 20


def infer(table: str, rows: pa.Table, *, unique: tuple[str, ...] = (), by: str | None = None) -> TableSchema:
    """Guess the rules of `table` from its first `rows` (a month is good), loose enough for a year of honest weather.

    Nulls: three times the share seen, at least 2 % more; what had none in the key and time columns may have none.
    Numbers: the range seen, widened by itself on both sides, but for 2 % of the rows; the 5 %, 50 % and 95 % quantiles of a batch
    may leave those seen by three times the distance from the 5 % to the 95 % quantile. Texts with few values: those values, but
    for 5 % of the rows. Shares and quantiles are taken per day of the column `by` (default: the last time column), so that a bad
    day among the good rows counts as seen. Raises `InvalidError` for a table without rows.
    """
    if not rows.num_rows:
        raise InvalidError(f"no schema can be inferred for {table!r} without rows; publish a first batch, or write the schema by hand")
    days = _days(rows, by)
    columns = tuple(_rules(name, rows[name], days, strict=name in unique) for name in rows.column_names)
    return TableSchema(table, columns, tuple(unique), inferred_from=_described(rows, by))


def _days(rows: pa.Table, by: str | None) -> list[npt.NDArray[np.int64]]:
    """Row indices of each day; one group when there is no time column."""
    times = [name for name in rows.column_names if kind_of(rows.schema.field(name).type) == "time"]
    if by is None and not times:
        return [np.arange(rows.num_rows)]
    days = pc.fill_null(as_us(rows[by or times[-1]]), 0).to_numpy() // DAY_US
    order = np.argsort(days, kind="stable")
    return [g for g in np.split(order, np.flatnonzero(np.diff(days[order])) + 1) if len(g)]


def _described(rows: pa.Table, by: str | None) -> str:
    times = [name for name in rows.column_names if pa.types.is_timestamp(rows.schema.field(name).type)]
    if not (name := by or (times[-1] if times else None)):
        return f"{rows.num_rows} rows"
    ends = pc.min_max(as_us(rows[name])).as_py()
    return f"{rows.num_rows} rows, {name} {format_instant(ends['min'])} to {format_instant(ends['max'])}"


def _rules(name: str, values: pa.ChunkedArray, days: list[npt.NDArray[np.int64]], *, strict: bool) -> ColumnRules:
    kind = kind_of(values.type)
    nulls = _null_fraction(values, days, strict=strict or kind == "time")
    if kind == "number":
        return _number_rules(name, values, days, nulls)
    if kind == "text" and (domain := _domain(values)):
        return ColumnRules(name, kind, null_fraction=nulls, domain=domain, outside=DOMAIN_OUTSIDE)
    return ColumnRules(name, kind, null_fraction=nulls)


def _null_fraction(values: pa.ChunkedArray, days: list[npt.NDArray[np.int64]], *, strict: bool) -> float | None:
    missing = pc.is_null(values, nan_is_null=True).to_numpy()
    shares = [float(missing[day].mean()) for day in days if len(day) >= _FEW]
    seen = max([float(missing.mean()), *shares])
    if strict and not seen:
        return 0.0
    bound = max(3 * seen, seen + 0.02)
    return round(bound, 4) if bound < 1 else None


def _number_rules(name: str, values: pa.ChunkedArray, days: list[npt.NDArray[np.int64]], nulls: float | None) -> ColumnRules:
    plain = pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_numpy()
    finite = plain[np.isfinite(plain)]
    if not len(finite):
        return ColumnRules(name, "number", null_fraction=nulls)
    low, high = float(finite.min()), float(finite.max())
    slack = (high - low) or max(abs(high), 1.0)
    quantiles = dict(_quantiles([plain[day] for day in days], finite))
    return ColumnRules(
        name, "number", null_fraction=nulls, low=_round(low - slack), high=_round(high + slack), outside=RANGE_OUTSIDE, quantiles=quantiles
    )


def _quantiles(days: list[npt.NDArray[np.float64]], finite: npt.NDArray[np.float64]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Bounds per rank: the days' least and greatest quantile, widened; none where one value is so common that two ranks meet (rain)."""
    ranks = [float(rank) for rank in RANKS]
    whole = np.quantile(finite, ranks)
    if (np.diff(whole) <= 0).any():
        return
    spread = float(whole[-1] - whole[0])
    kept = [day[np.isfinite(day)] for day in days]
    seen = np.array([np.quantile(day, ranks) for day in kept if len(day) >= _FEW] or [whole])
    for i, rank in enumerate(RANKS):
        yield rank, (_round(float(seen[:, i].min()) - QUANTILE_SLACK * spread), _round(float(seen[:, i].max()) + QUANTILE_SLACK * spread))


def _domain(values: pa.ChunkedArray) -> tuple[str, ...] | None:
    """The texts, when there are few and each is met often."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_dictionary(values.type)):
        return None
    texts = values.drop_null().cast(pa.string())
    found = texts.unique()
    if not len(found) or len(found) > min(DOMAIN_SIZE, len(texts) // 10):
        return None
    return tuple(sorted(found.to_pylist()))


def _round(value: float) -> float:
    """Six significant digits: people will read it."""
    return float(f"{value:.6g}")
