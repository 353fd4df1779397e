"""Training sets outside of a pipeline: for a notebook, a batch of predictions, or a look at the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import Definitions, FeatureView, Label, OnDemand, Service, Table
from tidemill.core.errors import InvalidError, NotFoundError, not_found
from tidemill.core.instants import format_instant
from tidemill.features.ports import AT
from tidemill.training import FrameSource

Feature = FeatureView | OnDemand | str


def make_frame(
    there: Definitions, source: FrameSource, features: Sequence[str], *, spine: str | Path | pa.Table | None, label: str | None,
    service: str | None, key: str, at: str, lead: str, from_us: int | None, until_us: int,
) -> tuple[pa.Table, dict[str, int]]:  # fmt: skip
    """See `Platform.training_set`; the counts say how many rows have their label, are pending and are censored."""
    base = None
    if service or not (features and (spine is not None or label)):
        base = there.service(service)
    wanted = _label(there, label) or (base.label if base and label is None else None)
    listed = _rows(spine, there)
    told = listed is None and spine is None and base is None
    if listed is not None:
        table = base.spine if base else Table("rows", "", AT, AT)
    elif isinstance(spine, str):
        table = there.tables[spine]
    elif base is not None:
        table = base.spine
    else:
        assert wanted is not None
        table = wanted.table
    own = base is not None and table == base.spine
    asked = Service(
        name=base.name if base else "frame",
        features=_features(there, features) or (base.features if base else ()),
        label=wanted or Label("unlabelled", table, "null", key or "id"),
        spine=table,
        key=key or (base.key if base and own else wanted.key if wanted else _only_key(table, listed)),
        lead=lead or (base.lead if base and own and not at and listed is None else ""),
    )
    if listed is not None:
        return _narrow(source.beside(asked, listed, until_us, labelled=wanted is not None), there, features), {}
    made, counts = source.derive(asked, at=at, told=told, from_us=from_us, until_us=until_us, labelled=wanted is not None)
    return _narrow(made, there, features), counts


def _label(there: Definitions, name: str | None) -> Label | None:
    if not name:
        return None
    if name not in there.labels:
        raise not_found("label", name, there.labels)
    return there.labels[name]


def _rows(spine: str | Path | pa.Table | None, there: Definitions) -> pa.Table | None:
    """The rows that someone lists: an Arrow table, or a Parquet or CSV file; None where the spine is one of the project's tables or none is named."""
    if isinstance(spine, pa.Table):
        rows = spine
    elif spine is None or (isinstance(spine, str) and spine in there.tables):
        return None
    else:
        return listed_rows(Path(spine), there)
    return _at_times(rows)


def listed_rows(path: Path, there: Definitions) -> pa.Table:
    """The rows of a Parquet or CSV file with a column `at`, that as microseconds in UTC. Raises `NotFoundError`, `InvalidError`."""
    return _at_times(_file(path, there))


def listed_groups(path: Path, there: Definitions, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The same rows, of a Parquet file one row group after the other; of its columns those that are named."""
    if path.suffix != ".parquet" or not path.is_file():
        rows = listed_rows(path, there)
        yield rows if columns is None else rows.select(columns)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _at_times(file.schema_arrow.empty_table())
        for number in range(file.num_row_groups):
            yield _at_times(file.read_row_group(number, columns=columns))


def _at_times(rows: pa.Table) -> pa.Table:
    if AT not in rows.column_names:
        raise InvalidError(f"the rows lack {AT!r}, the time that each is asked about; they have {', '.join(rows.column_names)}")
    kind = rows.schema.field(AT).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InvalidError(f"column {AT!r} is {kind}; it must be a timestamp with a time zone, for example 2024-01-20T12:00:00Z")
    return rows.set_column(rows.column_names.index(AT), AT, rows.column(AT).cast(pa.timestamp("us", "UTC"), safe=False))


def _file(path: Path, there: Definitions) -> pa.Table:
    if not path.is_file():
        raise NotFoundError(f"the spine {str(path)!r} is neither a file nor a table of the project; it has {', '.join(there.tables)}")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path)
    if path.suffix == ".csv":
        from pyarrow import csv

        return csv.read_csv(path)
    raise InvalidError(f"{str(path)!r} is neither .parquet nor .csv")


def _features(there: Definitions, names: Sequence[str]) -> tuple[Feature, ...]:
    """What the names stand for: a service or feature service (all of its), a view, one feature of a view, an on-demand feature, or else a column of the spine."""
    found: dict[str, Feature] = {}
    for name in names:
        view = _view_of(there, name)
        if name in there.services or name in there.feature_services:
            group = there.services.get(name) or there.feature_services[name]
            for feature in group.features:
                several = _features(there, [feature]) if isinstance(feature, str) and ":" in feature else (feature,)
                found.update({f if isinstance(f, str) else f.name: f for f in several})
        elif view is not None:
            found[view.name] = view
        elif name in there.on_demand:
            found[name] = there.on_demand[name]
        elif ":" in name or "__" in name:
            raise not_found("feature", name, [c for v in there.views.values() for c in v.columns])
        else:
            found[name] = name
    return tuple(found.values())


def _view_of(there: Definitions, name: str) -> FeatureView | None:
    """The view of that name, or the one that has a feature of that name (`view__feature` or `view:feature`)."""
    full = name.replace(":", "__", 1)
    return there.views.get(name) or next((v for v in there.views.values() if full in v.columns), None)


def _narrow(rows: pa.Table, there: Definitions, names: Sequence[str]) -> pa.Table:
    """Without the columns of views of which only single features were asked for."""
    single = {name.replace(":", "__", 1): view for name in names if name not in there.views and (view := _view_of(there, name))}
    whole = {
        c
        for f in _features(there, [n for n in names if n.replace(":", "__", 1) not in single])
        if isinstance(f, FeatureView)
        for c in f.columns
    }
    drop = {c for view in single.values() for c in view.columns} - set(single) - whole
    return rows.drop_columns([c for c in rows.column_names if c in drop])


def _only_key(table: Table, listed: pa.Table | None) -> str:
    if listed is not None:
        return table.keys[0] if len(table.keys) == 1 else "id"
    if len(table.keys) != 1:
        raise InvalidError(f"table {table.name!r} has no single key column; say with key= (--key) which column tells its rows apart")
    return table.keys[0]


def summary(rows: pa.Table, counts: dict[str, int]) -> str:
    """One line: how many rows and columns, from when to when, and how many labels."""
    span = pc.min_max(rows.column(AT).cast(pa.int64())).as_py()
    text = f"{rows.num_rows:,} rows × {rows.num_columns} columns, {format_instant(span['min'])} to {format_instant(span['max'])}"
    return text + (f"; {counts['pending']:,} more wait for their label, {counts['censored']:,} will not get one" if counts else "")
