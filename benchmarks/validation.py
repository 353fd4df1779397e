"""Profiling a million rows, and auditing one day: Tidemill beside DuckDB.

    python benchmarks/validation.py [TASK …] [--json] [--quick]

Tasks: profile (1,000,000 rows of 20 columns like those of flights: 14 numbers, 4 of them with a fraction and nulls, 4 texts, the
largest of 20,000 values, a time and a flag), merge_and_psi (two such profiles merged, and the stability index of every column) and
audit_day (1,000 of the rows against an inferred schema, profile included; what ingestion adds to each batch). All tools read the
same Arrow table in memory. The peer, DuckDB's SUMMARIZE, gives counts, ends, moments, quartiles and distinct counts, which cannot be
merged. The floor is one query written by hand with the figures of a Tidemill profile: more quantiles and the top values.
"""

from __future__ import annotations

import duckdb
import kit
import numpy as np
import pyarrow as pa

from tidemill.validation import check, infer
from tidemill.validation.embedded import SketchProfiler

FLOOR, PEER = "duckdb-one-query", "duckdb-summarize"


def make_rows(n: int, seed: int = 1) -> pa.Table:
    """`n` rows of 20 columns."""
    random = np.random.default_rng(seed)
    columns: dict[str, object] = {"id": np.arange(n)}
    for i, high in enumerate((12, 31, 24, 60, 2400, 2400, 9000)):
        columns[f"whole{i}"] = random.integers(0, high, n)
    for i in range(6):
        columns[f"real{i}"] = np.where(random.random(n) < 0.02, np.nan, random.gamma(2.0, 20.0, n) - 15)
    for i, kinds in enumerate((3, 16, 4_000, 20_000)):
        names = np.array([f"N{k:05d}" for k in range(kinds)])
        columns[f"text{i}"] = pa.array(names[random.integers(0, kinds, n)])
    columns["at"] = pa.array(1_357_000_000_000_000 + np.sort(random.integers(0, 31_000_000_000_000, n)), pa.timestamp("us", tz="UTC"))
    columns["flag"] = random.random(n) < 0.3
    return pa.table(columns)


def by_hand(rows: pa.Table) -> str:
    """The floor's query."""
    parts = ["count(*)"]
    for field in rows.schema:
        name = f'"{field.name}"'
        parts += [f"count({name})", f"min({name})", f"max({name})"]
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            parts += [f"avg({name})", f"stddev({name})", f"approx_quantile({name}, [.01, .05, .1, .25, .5, .75, .9, .95, .99])"]
        elif pa.types.is_string(field.type):
            parts += [f"approx_count_distinct({name})", f"approx_top_k({name}, 20)"]
    return f"SELECT {', '.join(parts)} FROM rows"


def main() -> None:
    """Measure and print."""
    options = kit.arguments(str(__doc__).partition("\n")[0])
    kit.machine("tidemill", "duckdb", "pyarrow", "numpy", "datasketches")
    rows = make_rows(100_000 if options.quick else 1_000_000)
    day, profiler, db, rounds = rows.slice(0, 1_000), SketchProfiler(), duckdb.connect(), 5
    db.register("rows", rows)
    hand, schema = by_hand(rows), infer("day", day)
    if options.wants("profile"):
        tools = {
            kit.OURS: lambda: kit.seconds(lambda: profiler.profile(rows)),
            PEER: lambda: kit.seconds(lambda: db.execute("SUMMARIZE rows").to_arrow_table()),
            FLOOR: lambda: kit.seconds(lambda: db.execute(hand).to_arrow_table()),
        }
        kit.report("profile", kit.interleave(tools, rounds), "ms", scale=1000, floor=FLOOR)
    if options.wants("merge_and_psi"):
        one, two = profiler.profile(rows.slice(0, rows.num_rows // 2)), profiler.profile(rows.slice(rows.num_rows // 2))

        def both() -> None:
            whole = one.merge(two)
            for name in whole.columns():
                whole.distance(two, name)

        kit.report("merge_and_psi", kit.interleave({kit.OURS: lambda: kit.seconds(both)}, rounds), "ms", scale=1000)
    if options.wants("audit_day"):
        audit = kit.interleave({kit.OURS: lambda: kit.seconds(lambda: check(day, schema, profiler))}, 20)
        kit.report("audit_day", audit, "ms", scale=1000)


if __name__ == "__main__":
    main()
