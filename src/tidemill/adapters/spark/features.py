"""Feature values of many spine rows, computed by Spark: the query that `tidemill features sql --engine spark` prints, step by step.

Spark reads the data files of a table's snapshot and does all the work on rows of tables; the spine goes in and its columns come out through
this process. Steps that are read more than once are kept, in memory and then on disk, until the join is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from tidemill.adapters.spark.place import Place
from tidemill.adapters.spark.session import Sessions, translated
from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError, UnavailableError, not_found
from tidemill.features.checks import check_columns, check_key, check_spine, plain_key
from tidemill.features.fields import conditions, fields_of, quote, type_of
from tidemill.features.ports import AT, SourceRow
from tidemill.features.reasons import source_rows
from tidemill.features.sql.compile import plan_join
from tidemill.features.sql.engines import render
from tidemill.features.sql.sources import compile_source, spark_glob, spark_order, spark_schema
from tidemill.features.sql.tables import Step, revised_steps
from tidemill.versioning.ports import Scan

_PLACE = "_spine"
"""The column that says which row of the spine a question is."""
_US = pa.timestamp("us", "UTC")


class SparkOfflineStore:
    """An `OfflineStore` on Spark. The files of the scans must be where all of Spark's machines can read them."""

    def __init__(self, place: Place) -> None:
        self._sessions = Sessions(place)

    def join(self, spine: pa.Table, views: Sequence[FeatureView], scans: Mapping[str, Scan]) -> pa.Table:
        """Append the views' columns to the spine."""
        check_spine(spine.schema, views)
        for view in views:
            if view.table.name not in scans:
                raise not_found("scan of table", view.table.name, scans)
            _check(view, scans[view.table.name], spine.schema)
        schemas = {name: scans[name].schema for name in dict.fromkeys(v.table.name for v in views)}
        plan = plan_join(views, schemas)
        queries = [(step, render(step.body, "spark")) for step in plan.steps]
        types = {v.full_name(a): type_of(a, schemas[v.table.name]) for v in views for a in v.aggregates}
        if not spine.num_rows:
            made = pa.table({name: pa.array([], kind) for name, kind in types.items()})
        else:
            session = self._sessions.new()
            with translated(", ".join(v.name for v in views)), _kept() as kept:
                for name in schemas:
                    _read(session, scans[name])
                _questions(session, spine, views)
                _run(session, queries, plan.often(), kept)
                made = session.sql(render(plan.last, "spark")).select(_PLACE, *(f"`{c}`" for c in types)).toArrow()
            made = _aligned(made, spine.num_rows)
        for name, kind in types.items():
            spine = spine.append_column(name, made[name].cast(kind))
        return spine

    def explain(self, row: Mapping[str, Any], view: FeatureView, scan: Scan, *, limit: int = 200) -> list[SourceRow]:
        """Source rows around one spine row, with the reason why each counts or does not."""
        if missing := sorted({AT, *view.keys} - set(row)):
            raise InvalidError(f"the row to explain lacks {', '.join(missing)}")
        check_columns(view.table, scan, view.keys)
        if not scan.paths or any(row[k] is None for k in view.keys):
            return []
        at, masks = int(row[AT]), {where: f"_w{i}" for i, where in enumerate(conditions(fields_of([view])))}
        steps = list(revised_steps(view.table, scan.schema, masks))
        mine = " AND ".join(f"{quote(k)} = :k{i}" for i, k in enumerate(view.keys))
        near = f"SELECT * FROM {quote(steps[-1].name)} WHERE {mine} ORDER BY ABS(_event - {at}), _order LIMIT {max(limit * 4, 1000)}"
        session = self._sessions.new()
        with translated(f"the rows behind {view.name}"), _kept() as kept:
            _read(session, scan)
            _run(session, [(s, render(s.body, "spark")) for s in steps], frozenset(), kept)
            values = {f"k{i}": row[k] for i, k in enumerate(view.keys)}
            found = session.sql(render(near, "spark"), args=values).toArrow().to_pylist()
        return source_rows(view, found, at, masks, limit)

    def session(self) -> SparkSession:
        """A session of the same application, set as those of `join` are. Raises `UnavailableError` when Spark cannot be started."""
        return self._sessions.new()

    def describe(self) -> str:
        """Say what runs where, for the doctor; starts Spark."""
        return self._sessions.describe()

    def close(self) -> None:
        """Stop what was started."""
        self._sessions.close()


def open_offline(url: str) -> SparkOfflineStore:
    """The store that a `spark:` URL names."""
    return SparkOfflineStore(Place.parse(url))


def _check(view: FeatureView, scan: Scan, spine: pa.Schema) -> None:
    columns = [f.column for f in fields_of([view]) if f.column]
    check_columns(view.table, scan, [*columns, *view.keys])
    for key in view.keys:
        check_key(view.name, key, scan.schema.field(key).type, spine.field(key).type)


def _read(session: SparkSession, scan: Scan) -> None:
    """Make the rows of a scan readable under the table's name."""
    if not scan.paths:
        session.sql(compile_source(scan, "spark")[0])
        return
    rows = session.read.schema(spark_schema(scan)).parquet(*(spark_glob(p) for p in scan.paths))
    rows.select("*", "_metadata.file_path", "_metadata.row_index").toDF(*rows.columns, "_file", "_row").createOrReplaceTempView("_files")
    session.sql(spark_order(scan, "_files")).createOrReplaceTempView(f"`{scan.table}`")


def _questions(session: SparkSession, spine: pa.Table, views: Sequence[FeatureView]) -> None:
    """The view `spine`: keys, time and place of every row."""
    asked = {key: spine[key].cast(plain_key(spine[key].type)) for view in views for key in view.keys}
    for view in views:
        asked |= {k: asked[k].cast(pa.int64() if pa.types.is_null(asked[k].type) else asked[k].type) for k in view.keys}
    asked[AT] = pc.cast(spine[AT], _US, safe=False)
    session.createDataFrame(pa.table({**asked, _PLACE: np.arange(spine.num_rows)})).createOrReplaceTempView("spine")


@contextmanager
def _kept() -> Iterator[list[DataFrame]]:
    """What is kept until the query is done."""
    kept: list[DataFrame] = []
    try:
        yield kept
    finally:
        for frame in kept:
            frame.unpersist()


def _run(session: SparkSession, queries: Sequence[tuple[Step, str]], often: frozenset[str], kept: list[DataFrame]) -> None:
    """Make every step a temporary view; those that are read often are kept, put together by entity where they come from files."""
    for step, query in queries:
        frame = session.sql(query)
        if step.by and step.name in often:
            frame = frame.repartition(*(f"`{c[1:-1]}`" for c in step.by))
        if step.name in often:
            kept.append(frame.persist(StorageLevel.MEMORY_AND_DISK))
        frame.createOrReplaceTempView(f"`{step.name}`")


def _aligned(made: pa.Table, rows: int) -> pa.Table:
    """The columns in the spine's order."""
    place = made[_PLACE].to_numpy()
    if len(place) != rows or not np.array_equal(np.sort(place), np.arange(rows)):
        raise UnavailableError(f"Spark answered {len(place)} rows for {rows} of the spine; try again")
    return made.take(pa.array(np.argsort(place)))
