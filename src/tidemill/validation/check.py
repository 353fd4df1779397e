"""Auditing a batch against its table's schema."""

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tidemill.core.instants import format_instant
from tidemill.validation.kinds import as_us, kind_of
from tidemill.validation.ports import Anomaly, Audit, ColumnRules, Profiler, TableSchema

FEW = 20
"""Quantiles are judged from this many values on."""


def check(rows: pa.Table, schema: TableSchema, profiler: Profiler) -> Audit:
    """Compare `rows` with every rule of `schema`; the audit carries the profile of the rows.

    A share above zero (nulls, values outside of a range or domain) always allows one row, so that tiny batches are not
    rejected for one odd value; a share of zero allows none.
    """
    profile = profiler.profile(rows)
    anomalies = [*_columns(rows, schema)]
    for rules in schema.columns:
        if rules.name in rows.column_names:
            anomalies += _column(rows[rules.name], rules, profile.column(rules.name))
    anomalies += _unique(rows, schema.unique)
    return Audit(tuple(anomalies), profile)


def _columns(rows: pa.Table, schema: TableSchema) -> Iterator[Anomaly]:
    known = {rules.name for rules in schema.columns}
    new = [name for name in rows.column_names if name not in known]
    for rules in schema.columns:
        if rules.required and rules.name not in rows.column_names:
            alike = [name for name in new if kind_of(rows.schema.field(name).type) == rules.kind]
            near = max(alike, key=lambda name: SequenceMatcher(None, name, rules.name).ratio(), default=None)
            hint = f"no such column; is it now called {near!r}?" if near else "no such column"
            yield Anomaly(rules.name, "missing_column", f"a column of kind {rules.kind}", hint, rows.num_rows)
    for name in () if schema.allow_new_columns else new:
        yield Anomaly(
            name,
            "unexpected_column",
            f"only the {len(known)} columns of the schema",
            f"a new column of type {rows.schema.field(name).type}",
        )


def _column(values: pa.ChunkedArray, rules: ColumnRules, facts: Mapping[str, Any]) -> Iterator[Anomaly]:
    if not pt.is_null(values.type) and facts["kind"] != rules.kind:
        yield Anomaly(rules.name, "type", rules.kind, f"{facts['kind']} ({values.type})", len(values))
        return
    nulls, n = facts["nulls"], len(values)
    if rules.null_fraction is not None and nulls > _allowed(rules.null_fraction, n):
        yield Anomaly(
            rules.name, "null_fraction", f"at most {_percent(rules.null_fraction)} nulls", f"{_percent(nulls / n)} ({nulls} of {n})", nulls
        )
    if not facts["n"]:
        return
    if rules.kind in ("number", "time"):
        yield from _range(values, rules, facts)
        yield from _quantiles(values, rules, facts["n"])
    elif rules.domain is not None:
        yield from _domain(values, rules, facts["n"])


def _range(values: pa.ChunkedArray, rules: ColumnRules, facts: Mapping[str, Any]) -> Iterator[Anomaly]:
    low = -np.inf if rules.low is None else rules.low
    high = np.inf if rules.high is None else rules.high
    if facts["min"] >= low and facts["max"] <= high:
        return
    plain = _floats(values)
    outside = int(((plain < low) | (plain > high)).sum())
    if outside > _allowed(rules.outside, facts["n"]):
        tolerance = f", but for {_percent(rules.outside)}" if rules.outside else ""
        expected = f"{_spell(low, rules)} to {_spell(high, rules)}{tolerance}"
        yield Anomaly(rules.name, "range", expected, f"{_spell(facts['min'], rules)} to {_spell(facts['max'], rules)}", outside)


def _quantiles(values: pa.ChunkedArray, rules: ColumnRules, n: int) -> Iterator[Anomaly]:
    if not rules.quantiles or n < FEW:
        return
    plain = _floats(values)
    ranks = sorted(rules.quantiles, key=float)
    for rank, found in zip(ranks, np.quantile(plain[np.isfinite(plain)], [float(r) for r in ranks]), strict=True):
        low, high = rules.quantiles[rank]
        if not low <= found <= high:
            expected = f"{_percent(float(rank))} quantile in {_spell(low, rules)} to {_spell(high, rules)}"
            yield Anomaly(rules.name, "quantiles", expected, _spell(float(found), rules))


def _domain(values: pa.ChunkedArray, rules: ColumnRules, n: int) -> Iterator[Anomaly]:
    domain = pa.array(rules.domain, pa.string())
    texts = values.drop_null().cast(pa.string())
    strange = texts.filter(pc.invert(pc.is_in(texts, value_set=domain)))
    if len(strange) > _allowed(rules.outside, n):
        shown = ", ".join(repr(v) for v in sorted(strange.unique().to_pylist())[:5])
        expected = f"one of {len(domain)} known values, but for {_percent(rules.outside)}"
        yield Anomaly(rules.name, "domain", expected, f"{_percent(len(strange) / n)} others: {shown}", len(strange))


def _unique(rows: pa.Table, columns: tuple[str, ...]) -> Iterator[Anomaly]:
    if not columns or any(name not in rows.column_names for name in columns):
        return
    keys = rows.select(columns)
    again = rows.num_rows - keys.group_by(list(columns), use_threads=False).aggregate([]).num_rows
    if again:
        yield Anomaly(", ".join(columns), "unique", "each key once in a batch", f"{again} of {rows.num_rows} rows repeat one", again)


def _allowed(share: float, n: int) -> float:
    return max(share * n, 1) if share > 0 else 0


def _floats(values: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    present = values.drop_null()
    if kind_of(values.type) == "time":
        present = as_us(present)
    plain: npt.NDArray[np.float64] = present.cast(pa.float64(), safe=False).to_numpy()
    return plain[~np.isnan(plain)]


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _spell(value: float, rules: ColumnRules) -> str:
    if rules.kind == "time" and np.isfinite(value):
        return format_instant(int(value))
    return f"{value:.10g}"
