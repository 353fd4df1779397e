"""Training sets from published tables: the spine as it was known, features at each row's time, labels known by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tidemill.core import digests
from tidemill.core.arrow import table_bytes
from tidemill.core.definitions import Definitions, FeatureView, Service
from tidemill.core.errors import InvalidError
from tidemill.core.instants import format_instant
from tidemill.core.meaning import view_body, view_digest
from tidemill.training.ports import TrainingSet
from tidemill.training.rows import AT, LABEL, vocabulary
from tidemill.versioning.ports import Scan, TableStore

Frame = Callable[[Service, pa.Table, Mapping[str, Scan]], pa.Table]
"""Appends a service's feature columns to spine rows: features' `training_frame` with the offline store filled in."""


class Labels(Protocol):
    """What this needs of a `LabelStore`."""

    def as_of(self, label: str, at_us: int, *, writers: Sequence[str]) -> pa.Table:
        """Labels as they were known at `at_us`, conflicts resolved by the order of writers: columns key, value."""
        ...


class FrameSource:
    """The `TrainingSource` over a table store, a label store and a feature join.

    A row counts when its label is known by `until`. Rows without one are left out and counted in the training set's `meta["labels"]`: they
    are *pending* until the label's maturity, *censored* after it, and never taken for negative.
    """

    def __init__(
        self, definitions: Definitions, frame: Frame, tables: TableStore, labels: Labels, pins: Mapping[str, int] | None = None
    ) -> None:
        """Wire it up.

        Args:
            definitions: the project's.
            frame: appends feature columns to spine rows.
            tables: where the published rows are.
            labels: what is known of labels.
            pins: snapshots to read instead of the newest ones, by table; for reproducing a run.
        """
        self._definitions = definitions
        self._frame = frame
        self._tables = tables
        self._labels = labels
        self._pins = pins or {}
        self._seen: dict[tuple[str, int], tuple[dict[str, Scan], pa.Table]] = {}

    def versions(self, service: str, until_us: int) -> Mapping[str, Any]:
        """What `frame` would read now; the next `frame` of the same set reads exactly this."""
        found = self._definitions.service(service)
        scans, labels = self._read(found, until_us)
        self._seen = {(service, until_us): (scans, labels)}  # of the last asked only: labels may be large
        return {
            "tables": {name: scan.snapshot_id for name, scan in scans.items()},
            "labels": digests.of_bytes(table_bytes(labels.select(["key", "value"])))[7:23],
            "definition": {
                "features": [view_body(f) if isinstance(f, FeatureView) else f for f in found.features],
                "spine": [found.spine.name, found.spine.event_time, found.spine.known_time, *found.spine.keys],
                "label": found.label.expression,
                "key": found.key,
                "lead_us": found.lead_us,
            },
        }

    def frame(self, service: str, until_us: int, *, tag: str = "") -> TrainingSet:
        """See `TrainingSource.frame`."""
        found = self._definitions.service(service)
        scans, labels = self._seen.get((service, until_us)) or self._read(found, until_us)
        self._seen = {}
        everything = self._spine(found, scans[found.spine.name], until_us)
        spine = _labelled(everything, labels, found.key)
        if not spine.num_rows:
            raise InvalidError(
                f"service {service!r} has no row with a known label by {format_instant(until_us)}; ingest {found.spine.name!r} and "
                f"{found.label.table.name!r}, or choose a later time"
            )
        counts = _counts(found, everything, spine, until_us)
        del everything, labels  # a copy of the spine and a text a row, not to be held beside the features
        table = self._frame(found, spine, scans).select(["id", AT, *found.columns, LABEL])
        snapshots = {name: scan.snapshot_id for name, scan in scans.items() if scan.snapshot_id is not None}
        if tag:
            for name, snapshot in snapshots.items():
                self._tables.tag(name, snapshot, f"{tag}-{snapshot}")  # replays of one project share tables and run ids
        views = {view.name: view_digest(view) for view in found.views}
        return TrainingSet(
            service,
            table,
            found.columns,
            vocabulary(table, found.columns),
            until_us,
            snapshots,
            meta={"views": views, "labels": counts},
        )

    def derive(
        self, service: Service, *, at: str = "", told: bool = False, from_us: int | None = None, until_us: int, labelled: bool = True
    ) -> tuple[pa.Table, dict[str, int]]:
        """The rows of a table at their own times, with features and labels beside them: a training set for which nobody lists rows.

        Args:
            service: names features, spine table, key, lead and label; it need not be one that the project defines.
            at: the timestamp column that says when a row is asked about, instead of the spine's event time; `lead` is taken from it.
            told: rows are known only after `at`, as those of a label's table are. Then they give `key`, the entity keys and `at` as they
                are known by `until_us`, and nothing else; otherwise each row stands as it was known at its own time.
            from_us: no row of an earlier time.
            until_us: no row of a later time; labels as they were known then.
            labelled: leave out rows without a label.

        Returns:
            Columns `id`, `at`, the entity keys, the features, and `label` when `labelled`; one row per value of `key`, in time order. And how
            many rows have their label, are pending and are censored.

        Raises:
            InvalidError: there is no such row, or a column is missing.
        """
        scans, labels = self._read(service, until_us)
        rows = self._spine(service, scans[service.spine.name], until_us, when=at, told=told)
        if from_us is not None:
            rows = rows.filter(pc.greater_equal(rows.column(AT).cast(pa.int64()), from_us))
        if told:
            rows = rows.select(list(dict.fromkeys(("id", AT, service.key, *(key for view in service.views for key in view.keys)))))
        _need(service.request_columns, rows, f"from {service.spine.name!r}")
        spine = _labelled(rows, labels, service.key) if labelled else rows
        if not spine.num_rows:
            label = f" with a label {service.label.name!r} known" if labelled else ""
            raise InvalidError(
                f"table {service.spine.name!r} has no row{label} by {format_instant(until_us)}; ingest more, or choose other times"
            )
        counts = _counts(service, rows, spine, until_us) if labelled else {}
        return self._beside(service, spine, scans, [LABEL] if labelled else []), counts

    def beside(self, service: Service, rows: pa.Table, until_us: int, *, labelled: bool) -> pa.Table:
        """Features, and the label where it is known by `until_us` (else null), beside rows that someone lists.

        Args:
            service: as for `derive`.
            rows: with a column `at` (timestamp with a time zone), the entity keys and what else the features read. All its columns stay.
            until_us: labels as they were known then.
            labelled: append a column `label`; `rows` then has the service's key.

        Raises:
            InvalidError: a column is missing or of the wrong type.
        """
        _need([AT, *service.request_columns, *([service.key] if labelled else [])], rows, "that you list")
        scans, labels = self._read(service, until_us, alone=True)
        if "id" not in rows.column_names:
            ids = rows.column(service.key) if service.key in rows.column_names else pa.array(range(rows.num_rows))
            rows = rows.append_column("id", ids.cast(pa.string()))
        if labelled:
            rows = _with_label(rows, labels, service.key)
        own = [c for c in rows.column_names if c not in ("id", AT) and not (labelled and c == LABEL)]
        return self._beside(service, rows, scans, own + [LABEL] * labelled)

    def _beside(self, service: Service, rows: pa.Table, scans: Mapping[str, Scan], others: Sequence[str]) -> pa.Table:
        joined = self._frame(service, rows, scans)
        keys = [key for view in service.views for key in view.keys]
        label = [c for c in others if c == LABEL]
        columns = dict.fromkeys(["id", AT, *keys, *(c for c in others if c != LABEL), *service.columns, *label])
        return joined.select(list(columns))

    def _read(self, service: Service, until_us: int, *, alone: bool = False) -> tuple[dict[str, Scan], pa.Table]:
        """The tables of a service (`alone`: of its views only) and its labels."""
        spine = [] if alone else [service.spine.name]
        names = dict.fromkeys((*spine, *(view.table.name for view in service.views)))
        scans = {name: self._tables.scan(name, self._pins.get(name)) for name in names}
        labels = self._labels.as_of(service.label.name, until_us, writers=service.label.writers)
        return scans, labels.filter(pc.is_valid(labels.column("value"))).sort_by("key")

    def _spine(self, service: Service, scan: Scan, until_us: int, *, when: str = "", told: bool = False) -> pa.Table:
        """Spine rows as they were known at their own time (`told`: by `until_us`), each `service.key` once (its earliest time), in time order."""
        table = service.spine
        if not scan.paths:
            raise InvalidError(f"table {table.name!r} is empty; ingest it before training {service.name!r}")
        rows = ds.dataset([p.removeprefix("file://") for p in scan.paths], schema=scan.schema, format="parquet").to_table()
        times = column_times(rows, when or table.event_time, table.name) - service.lead_us
        known = column_us(rows, table.known_time)
        if told and (early := int(np.count_nonzero(known <= times))):
            raise InvalidError(
                f"{early:,} rows of table {table.name!r} were known by the time they are asked about, so features could hold the answer; "
                "say with lead= (--lead) how long before, with at= (--at) when else, or name a table of events as the spine"
            )
        looked = np.full(len(times), until_us) if told else times
        keep = known_at_own_time(key_codes(rows, table.keys), known, looked) & (times <= until_us)
        rows, times = rows.filter(pa.array(keep)), times[keep]
        ids = rows.column(service.key).cast(pa.string())
        order = np.lexsort((np.asarray(pc.rank(ids, tiebreaker="dense")), times))
        rows, times, ids = rows.take(pa.array(order)), times[order], ids.take(pa.array(order))
        rows = with_column(with_column(rows, AT, pa.array(times).cast(pa.timestamp("us", "UTC"))), "id", ids)
        _, first = np.unique(key_codes(rows, ("id",)), return_index=True)
        return rows if len(first) == rows.num_rows else rows.take(pa.array(np.sort(first)))


def known_at_own_time(keys: npt.NDArray[np.int64], known_us: npt.NDArray[np.int64], at_us: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which rows stood at their own time `at`: known by then, and not replaced by a row of their key that was known by then.

    Args:
        keys: (n,) equal numbers for equal keys, -1 for rows that stand for themselves.
        known_us: (n,) when each row became known.
        at_us: (n,) when each row is looked at.
    """
    order = np.lexsort((np.arange(len(keys)), known_us, keys))
    replaced = np.zeros(len(keys), dtype=bool)
    here, behind = order[:-1], order[1:]
    replaced[here] = (keys[here] == keys[behind]) & (keys[here] >= 0) & (known_us[behind] <= at_us[here])
    return (known_us <= at_us) & ~replaced


def key_codes(rows: pa.Table, columns: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """A number for each combination of values; -1 everywhere without columns."""
    named = [c for c in columns if c]
    out = np.zeros(rows.num_rows, dtype=np.int64)
    if not named:
        return out - 1
    for name in named:
        codes = np.asarray(rows.column(name).combine_chunks().dictionary_encode(null_encoding="encode").indices, dtype=np.int64)
        _, out = np.unique(out * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)
    return out


def _labelled(spine: pa.Table, labels: pa.Table, key: str) -> pa.Table:
    """Spine rows that have a label, with it as float64 column `label`; a column of that name in the spine gives way."""
    labelled = _with_label(spine, labels, key)
    return labelled.filter(pc.is_valid(labelled.column(LABEL)))


def _with_label(spine: pa.Table, labels: pa.Table, key: str) -> pa.Table:
    place = pc.index_in(spine.column(key).cast(pa.string()), value_set=labels.column("key").cast(pa.string()))
    values = labels.column("value").combine_chunks().take(place.combine_chunks() if isinstance(place, pa.ChunkedArray) else place)
    return with_column(spine, LABEL, values.cast(pa.float64()))


def _counts(service: Service, everything: pa.Table, labelled: pa.Table, until_us: int) -> dict[str, int]:
    """How many rows have their label, how many still wait for it, and how many will not get one any more."""
    lacking = everything.filter(pc.invert(pc.is_in(everything["id"], value_set=labelled["id"].combine_chunks())))
    ripe = pa.scalar(until_us - service.lead_us - service.label.matures_us, pa.int64())
    censored = int(pc.sum(pc.less_equal(lacking[AT].cast(pa.int64()), ripe)).as_py() or 0)
    return {"labelled": labelled.num_rows, "pending": lacking.num_rows - censored, "censored": censored}


def with_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    """The table with a column added or replaced."""
    return (
        table.set_column(table.column_names.index(name), name, column) if name in table.column_names else table.append_column(name, column)
    )


def _need(wanted: Sequence[str], rows: pa.Table, spine: str) -> None:
    if missing := [c for c in wanted if c not in rows.column_names]:
        raise InvalidError(
            f"no feature of the project and no column of the rows {spine} is named {', '.join(missing)}; the rows have {', '.join(rows.column_names)}"
        )


def column_times(rows: pa.Table, column: str, table: str) -> npt.NDArray[np.int64]:
    """The times in a column, which a person may have named. Raises `InvalidError` when it is not there, holds no times or lacks some."""
    if column not in rows.column_names:
        raise InvalidError(f"table {table!r} has no column {column!r}; it has {', '.join(rows.column_names)}")
    if not pa.types.is_timestamp(rows.schema.field(column).type) or rows.column(column).null_count:
        raise InvalidError(f"column {column!r} of table {table!r} does not say when: each row needs a timestamp there")
    return column_us(rows, column)


def column_us(rows: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """The times in a column, microseconds."""
    return np.asarray(rows.column(column).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(), dtype=np.int64)
