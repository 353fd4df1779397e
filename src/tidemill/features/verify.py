"""Parity: every served value against the offline path at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.core.definitions import FeatureView, Service
from tidemill.core.instants import parse_instant, to_us
from tidemill.core.privacy import private_columns
from tidemill.features.causes import guess
from tidemill.features.ondemand import append_on_demand
from tidemill.features.ports import AT, Difference, OfflineStore, ParityReport, Served
from tidemill.versioning.ports import Scan

TOLERANCE = 1e-9
"""Relative difference up to which two floats are equal."""
_CHUNK = 100_000
_EXAMPLES = 12
_NUMBERS = {float, int, bool, type(None)}


@dataclass(slots=True)
class Found:
    """A difference and what is needed to look for its cause."""

    prediction: Served
    column: str
    served: Any
    expected: Any


def verify(
    service: Service,
    served: Iterable[Served],
    offline: OfflineStore,
    scans: Mapping[str, Scan],
    *,
    mask: Callable[[Any], Any] | None = None,
    progress: Callable[[int], None] = lambda _rows: None,
) -> ParityReport:
    """Recompute served rows offline at their own times and compare column by column.

    Floats are equal to 1e-9 relative, NaN equals null. Rows that brought all their inputs along are left out, since nothing
    was looked up for them, and so are those that were answered while features could not be read (`ParityReport.degraded`).

    Args:
        service: what was served.
        served: predictions of the service, for example `PredictionLog.read(service.name, roles=("live", "canary"))`.
        offline: the offline path.
        scans: where rows are, by table name: those of the views, and of the spine if the types of its columns should be used.
        mask: how the log hides personal values; they are compared behind it. Features that need a hidden value to be recomputed (their
            key, or an input) are excluded and named in the report, and without `mask` all personal columns are.
        progress: called with the number of rows compared so far.

    Returns:
        Counts, and for each column that differs a dozen examples with the likely cause.
    """
    rows = values = 0
    by_column: dict[str, int] = {}
    found: dict[str, list[Found]] = {}
    whole, private = service, private_columns(service)
    service, excluded = comparable(service, private if mask is None else frozenset())
    needed = [name for name in whole.request_columns if name != AT]
    left_out = [0]
    stream = (p for p in _undegraded(served, left_out) if all(name in p.request for name in needed))
    for chunk in _chunks(stream, _CHUNK):
        expected = recompute(service, chunk, offline, scans)
        rows += len(chunk)
        for columns, places in _by_columns(chunk).items():
            given = dict(zip(columns, zip(*(chunk[i].values for i in places), strict=True), strict=True))
            known = [c for c in columns if c in service.columns and c not in excluded]
            values += len(known) * len(places)
            for column in known:
                wanted = expected[column] if len(places) == len(chunk) else expected[column].take(pa.array(places))
                if column in private and mask is not None:
                    wanted = pa.chunked_array([pa.array(map(mask, wanted.to_pylist()), pa.string())])
                different = np.flatnonzero(~equal(given[column], wanted))
                by_column[column] = by_column.get(column, 0) + len(different)
                for i in different[: _EXAMPLES - len(found.get(column, ()))]:
                    found.setdefault(column, []).append(Found(chunk[places[i]], column, given[column][i], wanted[int(i)].as_py()))
        progress(rows)
    examples = [e for name, column in found.items() for e in _explained(service, column, offline, scans, hidden=name in private)]
    return ParityReport(service.name, rows, values, sum(by_column.values()), tuple(examples), by_column, excluded, left_out[0])


def _undegraded(served: Iterable[Served], count: list[int]) -> Iterator[Served]:
    """Those whose features were read; the others say already that they are not equal, and are counted."""
    for prediction in served:
        if prediction.degraded:
            count[0] += 1
        else:
            yield prediction


def comparable(service: Service, hidden: frozenset[str] = frozenset()) -> tuple[Service, dict[str, str]]:
    """The service without what cannot be recomputed, because the log has its key or input as a hash only; and the columns left out, with the reason.

    `hidden`: further columns that cannot be compared.
    """
    private, excluded = private_columns(service), dict[str, str]()
    lacking = private & set(service.request_columns)
    kept: list[Any] = []
    for feature in service.features:
        if isinstance(feature, FeatureView):
            names, needs, what = feature.columns, set(feature.keys) & lacking, "its key"
        elif isinstance(feature, str):
            names, needs, what = (feature,), {feature} & lacking, "it"
        else:
            names, needs, what = (feature.name,), set(feature.inputs) & (lacking | excluded.keys()), "its input"
        if needs:
            excluded |= dict.fromkeys(names, f"{what} {', '.join(sorted(needs))} is personal and kept as a hash only")
        elif set(names) & hidden and not isinstance(feature, FeatureView):
            excluded |= dict.fromkeys(names, "it is personal")
        else:
            kept.append(feature)
    excluded |= {c: "it is personal" for c in hidden if c in service.columns and c not in excluded}
    return (replace(service, features=kept) if len(kept) < len(service.features) else service), excluded


def _explained(
    service: Service, found: Sequence[Found], offline: OfflineStore, scans: Mapping[str, Scan], *, hidden: bool
) -> list[Difference]:
    if hidden:
        return [Difference(f.prediction.id, f.column, f.served, f.expected, "unknown: the column is personal") for f in found]

    def at(shift_us: int) -> list[Any]:
        moved = recompute(service, [f.prediction for f in found], offline, scans, shift_us=shift_us)
        values: list[Any] = moved[found[0].column].to_pylist()
        return values

    others = recompute(service, [f.prediction for f in found], offline, scans).select(list(service.columns)).to_pylist()
    causes = guess(service, [(f.prediction, f.column, f.served, f.expected) for f in found], at, offline, scans, others)
    return [Difference(f.prediction.id, f.column, f.served, f.expected, cause) for f, cause in zip(found, causes, strict=True)]


def recompute(
    service: Service, predictions: Sequence[Served], offline: OfflineStore, scans: Mapping[str, Scan], *, shift_us: int = 0
) -> pa.Table:
    """The service's columns for these predictions, from their requests and the offline path; `shift_us` moves all times of the requests."""
    spine = scans.get(service.spine.name)
    times = {service.spine.event_time, service.spine.known_time}
    columns = {AT: pa.array([p.at_us + shift_us for p in predictions], pa.int64()).cast(pa.timestamp("us", "UTC"))}
    for name in service.request_columns:
        if name == AT:
            continue
        kind = spine.schema.field(name).type if spine is not None and name in spine.schema.names else None
        if kind is None and name in times:
            kind = pa.timestamp("us", "UTC")
        columns[name] = _column([p.request[name] for p in predictions], kind, shift_us)
    return append_on_demand(service, offline.join(pa.table(columns), service.views, scans))


def _column(values: list[Any], kind: pa.DataType | None, shift_us: int) -> pa.Array:
    if kind is not None and pa.types.is_timestamp(kind):
        return pa.array([None if v is None else _micros(v) + shift_us for v in values], pa.int64()).cast(pa.timestamp("us", "UTC"))
    if kind is not None and pa.types.is_integer(kind):
        kind = pa.int64()
        values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    return pa.array(values, kind)


def _micros(value: Any) -> int:
    if isinstance(value, datetime):
        return to_us(value)
    return parse_instant(value) if isinstance(value, str) else int(value)


def equal(served: Sequence[Any], expected: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which served values the offline path confirms."""
    kind = expected.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        wanted = np.asarray(expected.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        if set(map(type, served)) <= _NUMBERS:
            given = np.array(served, dtype=np.float64)
            return np.asarray(np.isclose(given, wanted, rtol=TOLERANCE, atol=0.0) | (np.isnan(given) & np.isnan(wanted)))
        numeric = np.fromiter((type(v) in _NUMBERS for v in served), dtype=bool, count=len(served))
        return numeric & equal([v if n else None for v, n in zip(served, numeric, strict=True)], expected)
    wanted_values = expected.to_pylist()
    return np.fromiter((_same(a, b) for a, b in zip(served, wanted_values, strict=True)), dtype=bool, count=len(served))


def _same(served: Any, expected: Any) -> bool:
    null = served is None or served != served
    if null or expected is None:
        return null and expected is None
    if isinstance(expected, datetime):
        return bool(_micros(served) == to_us(expected))
    return bool(served == expected)


def _by_columns(predictions: Sequence[Served]) -> dict[tuple[str, ...], list[int]]:
    grouped: dict[tuple[str, ...], list[int]] = {}
    for i, prediction in enumerate(predictions):
        grouped.setdefault(prediction.columns, []).append(i)
    return grouped


def _chunks(items: Iterable[Served], size: int) -> Iterator[list[Served]]:
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
