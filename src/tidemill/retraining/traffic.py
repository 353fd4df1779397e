"""Logged traffic answered again by another model version: what would have been different, where, and whether it would have been better.

The candidate reads what the log says was read, when it is pinned to the same feature views as the version that answered; else its inputs are made
offline at each request's own time (the path that parity compares with). Nothing is deployed, and nobody is answered.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill import features
from tidemill.core import ids
from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError
from tidemill.core.graphs import refuse_graph
from tidemill.core.instants import DAY_US, format_instant, parse_duration
from tidemill.core.privacy import private_columns
from tidemill.features.verify import comparable, recompute
from tidemill.ledger import schema
from tidemill.ledger.store import emit, to_json, upsert
from tidemill.monitoring.losses import row_losses
from tidemill.monitoring.quality import block_interval, labelled
from tidemill.retraining.parity import pinned_service
from tidemill.retraining.ports import Loop
from tidemill.serving.ports import LoadedModel, Prediction

Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int, str], None]
CHUNK = 10_000
WINDOW_US = 7 * DAY_US
EQUAL = 1e-9
"""Scores that are no further apart are the same answer."""
_LARGEST, _GROUPS, _MANY = 20, 8, 50
_BINS = np.linspace(0.0, 1.0, 41)


@dataclass(slots=True)
class _Rows:
    """What was answered and what would have been, by request; arrays of chunks, aligned."""

    at_us: list[npt.NDArray[np.int64]] = field(default_factory=list)
    logged: list[Floats] = field(default_factory=list)
    scored: list[Floats] = field(default_factory=list)
    label: list[Floats] = field(default_factory=list)
    groups: dict[str, list[list[Any]]] = field(default_factory=dict)
    largest: list[tuple[float, str, int, int, float, float]] = field(default_factory=list)


def replay_traffic(
    loop: Loop,
    service: Service,
    version: int,
    *,
    from_us: int | None = None,
    until_us: int | None = None,
    progress: Progress = lambda _done, _of, _what: None,
) -> dict[str, Any]:
    """Answer logged requests again with `version`, compare, and keep the report in the ledger.

    Args:
        loop: the platform.
        service: whose traffic.
        version: the candidate.
        from_us: the first instant; a week before `until_us` by default.
        until_us: where to stop; behind the newest prediction by default.
        progress: told how many requests are done.

    Raises:
        NotFoundError: no such version.
        InvalidError: nothing was logged then, or the candidate cannot be asked with what was logged; says why.
        RefusedError: its artifact is damaged or could run code.
    """
    refuse_graph(service.name, service.graph, "its logged answers are not one model's; a shadow compares a version within the graph")
    found = loop.registry.get(service.name, version)
    at = loop.log.scores(service.name)["at_us"]
    until = until_us if until_us is not None else int(at.max()) + 1 if at.size else 0
    start = from_us if from_us is not None else until - WINDOW_US
    total = int(((at >= start) & (at < until)).sum())
    as_read, model = pinned_service(loop, service, version), loop.runtime.load(loop.blobs.fetch(found.digest))
    _check(as_read, model, version)
    rows, degraded = _Rows(), 0
    answered = loop.log.read(service.name, from_us=start, until_us=until, roles=("live", "canary"))
    inputs = _Inputs(loop, service, as_read, model, version)
    for chunk in _chunks(answered):
        kept = [p for p in chunk if not p.degraded]
        degraded += len(chunk) - len(kept)
        if kept:
            _compare(loop, service, kept, model.predict(inputs.of(kept)), rows)
        progress(min(sum(map(len, rows.logged)), total), total, "requests")
    if not rows.logged:
        raise InvalidError(
            f"nothing that {service.name!r} answered from {format_instant(start)} to {format_instant(until)} can be replayed; "
            "`tidemill predict log` shows what is logged"
        )
    report = _report(service, rows) | {"version": version, "from_us": start, "until_us": until, "degraded": degraded}
    return _keep(loop, service, report)


def _check(as_read: Service, model: LoadedModel, version: int) -> None:
    if missing := [name for name in model.features if name not in as_read.columns]:
        raise InvalidError(
            f"version {version} of {as_read.name!r} reads {', '.join(missing)}, which the service does not have; restore those features, or retrain it"
        )
    hidden = sorted(private_columns(as_read) & set(model.features))
    if hidden:
        raise InvalidError(
            f"version {version} of {as_read.name!r} reads {', '.join(hidden)}, which is personal: the log has hashes of it only, so its traffic cannot be replayed"
        )


class _Inputs:
    """The candidate's inputs of logged requests."""

    def __init__(self, loop: Loop, service: Service, as_read: Service, model: LoadedModel, version: int) -> None:
        self._loop, self._service, self._as_read = loop, service, as_read
        self._features = model.features
        self._mine = features.pinned(loop.registry.get(service.name, version).meta)
        self._same: dict[int, bool] = {}

    def of(self, rows: Sequence[Prediction]) -> list[tuple[Any, ...]]:
        """As logged where the same views were read, else made offline."""
        out: list[tuple[Any, ...]] = [()] * len(rows)
        again: list[int] = []
        for i, p in enumerate(rows):
            if self._reads_the_same(p):
                place = {name: k for k, name in enumerate(p.columns)}
                out[i] = tuple([p.values[place[name]] for name in self._features])
            else:
                again.append(i)
        for i, values in zip(again, self._offline([rows[i] for i in again]), strict=True):
            out[i] = values
        return out

    def _reads_the_same(self, p: Prediction) -> bool:
        if p.version not in self._same:
            self._same[p.version] = features.pinned(self._loop.registry.get(self._service.name, p.version).meta) == self._mine
        return self._same[p.version] and set(self._features) <= set(p.columns)

    def _offline(self, rows: Sequence[Prediction]) -> list[tuple[Any, ...]]:
        if not rows:
            return []
        service, excluded = comparable(self._as_read)
        lacking = [name for name in service.request_columns if any(name not in p.request for p in rows)]
        if excluded or lacking:
            raise InvalidError(
                f"the logged requests of {self._service.name!r} do not have what the candidate's features are made from: "
                f"{', '.join([*lacking, *excluded])}; they brought other inputs along, or those are personal"
            )
        scans = {t: self._loop.tables.scan(t) for t in {service.spine.name, *(view.table.name for view in service.views)}}
        made = recompute(service, rows, self._loop.offline, scans)
        columns = [[_plain(v) for v in made.column(name).to_pylist()] for name in self._features]
        return list(zip(*columns, strict=True))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else float(value)


def _chunks(rows: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    stream = iter(rows)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def _compare(loop: Loop, service: Service, chunk: Sequence[Prediction], scores: Floats, rows: _Rows) -> None:
    if not np.isfinite(scores).all():
        raise InvalidError("the candidate answers with what is no number; it cannot be compared")
    logged = np.array([p.score for p in chunk], dtype=np.float64)
    keys = np.array([p.id for p in chunk], dtype=object)
    rows.at_us.append(np.array([p.at_us for p in chunk], dtype=np.int64))
    rows.logged.append(logged)
    rows.scored.append(np.asarray(scores, dtype=np.float64))
    rows.label.append(labelled(service, loop.labels, keys, from_us=chunk[0].at_us, at_us=loop.clock.now_us()))
    for place in np.argsort(-np.abs(scores - logged), kind="stable")[:_LARGEST].tolist():
        p = chunk[place]
        item = (abs(float(scores[place]) - p.score), p.id, p.version, p.at_us, p.score, float(scores[place]))
        (heapq.heappush if len(rows.largest) < _LARGEST else heapq.heappushpop)(rows.largest, item)
    private = private_columns(service)
    for name, values in _texts(chunk).items():
        if name not in private:
            rows.groups.setdefault(name, [[] for _ in rows.logged[1:]]).append(values)
    rows.groups.setdefault("answered by", []).append([f"v{p.version}" for p in chunk])
    for name, found in rows.groups.items():
        rows.groups[name] = found + [[None] * len(chunk)] * (len(rows.logged) - len(found))


def _texts(chunk: Sequence[Prediction]) -> dict[str, list[Any]]:
    """Inputs that are texts, by name: what slices are made of."""
    names = {n for p in chunk[:1] for n, v in zip(p.columns, p.values, strict=True) if isinstance(v, str)}
    return {n: [dict(zip(p.columns, p.values, strict=True)).get(n) for p in chunk] for n in sorted(names)}


def _report(service: Service, rows: _Rows) -> dict[str, Any]:
    logged, scored, label = (np.concatenate(found) for found in (rows.logged, rows.scored, rows.label))
    at = np.concatenate(rows.at_us)
    difference = scored - logged
    apart = np.abs(difference)
    losses = _losses(service, label, logged, scored)
    blocks = at // parse_duration(service.gate.block)
    quantiles = np.quantile(apart, [0.5, 0.9, 0.99, 1.0]).tolist()
    return {
        "service": service.name,
        "rows": int(logged.size),
        "differ": float((apart > EQUAL).mean()),
        "crossed": float(((logged >= 0.5) != (scored >= 0.5)).mean()),
        "mean_logged": float(logged.mean()),
        "mean_candidate": float(scored.mean()),
        "apart": dict(zip(("p50", "p90", "p99", "max"), quantiles, strict=True)),
        "scores": _histograms(logged, scored),
        "largest": [
            dict(zip(("id", "answered_by", "at_us", "logged", "candidate"), item[1:], strict=True))
            for item in sorted(rows.largest, reverse=True)
        ],
        "quality": _quality(service, losses, blocks),
        "slices": [_slice(name, group, mask, difference, losses) for name, group, mask in _slices(rows.groups)],
    }


def _histograms(logged: Floats, scored: Floats) -> dict[str, list[float]]:
    low, high = float(min(logged.min(), scored.min(), 0.0)), float(max(logged.max(), scored.max(), 1.0))
    edges = _BINS if low >= 0 and high <= 1 else np.linspace(low, high, _BINS.size)
    return {
        "edges": edges.tolist(),
        "logged": np.histogram(logged, edges)[0].tolist(),
        "candidate": np.histogram(scored, edges)[0].tolist(),
    }


def _losses(service: Service, label: Floats, logged: Floats, scored: Floats) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    known = ~np.isnan(label)
    mine, theirs = np.full(label.size, np.nan), np.full(label.size, np.nan)
    mine[known] = row_losses(service.gate.metric, label[known], scored[known])
    theirs[known] = row_losses(service.gate.metric, label[known], logged[known])
    return known, theirs, mine


def _quality(service: Service, losses: tuple[npt.NDArray[np.bool_], Floats, Floats], blocks: npt.NDArray[np.int64]) -> dict[str, Any]:
    known, logged, candidate = losses
    facts: dict[str, Any] = {"metric": service.gate.metric, "labelled": int(known.sum()), "coverage": float(known.mean())}
    if not known.any():
        return facts
    _, place, sizes = np.unique(blocks[known], return_inverse=True, return_counts=True)
    sums = np.bincount(place, weights=candidate[known] - logged[known]).astype(np.float64)
    effect, low, high = block_interval(sizes.astype(np.float64), sums)
    facts |= {"logged": float(logged[known].mean()), "candidate": float(candidate[known].mean()), "blocks": int(sizes.size)}
    return facts | {"difference": effect, "low": low, "high": high, "method": f"cluster-robust t over blocks of {service.gate.block}"}


def _slices(groups: Mapping[str, list[list[Any]]]) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
    """Name, group and which rows, the largest groups of each text; one that has many different values says little about any."""
    for name, chunks in groups.items():
        values = np.array([v if v is not None else "none" for chunk in chunks for v in chunk], dtype=object)
        found, counts = np.unique(values.astype(str), return_counts=True)
        if found.size <= _MANY:
            for group in found[np.argsort(-counts, kind="stable")][:_GROUPS].tolist():
                yield name, group, values == group


def _slice(
    name: str, group: str, mask: npt.NDArray[np.bool_], difference: Floats, losses: tuple[npt.NDArray[np.bool_], Floats, Floats]
) -> dict[str, Any]:
    known = losses[0] & mask
    body = {"slice": name, "group": group, "rows": int(mask.sum()), "differ": float((np.abs(difference[mask]) > EQUAL).mean())}
    body |= {"mean": float(difference[mask].mean()), "labelled": int(known.sum())}
    return body | {
        side: float(values[known].mean()) if known.any() else None for side, values in zip(("logged", "candidate"), losses[1:], strict=True)
    }


def _keep(loop: Loop, service: Service, report: Mapping[str, Any]) -> dict[str, Any]:
    now = loop.clock.now_us()
    id_ = ids.derive("traffic", service.name, report["version"], report["from_us"], report["until_us"], now)
    kept = {"id": id_, "at_us": now, **report}
    with loop.ledger.write() as db:
        upsert(db, schema.state, {"name": f"traffic:{id_}", "value": to_json(kept), "at_us": now})
        told = {"replay": id_, "version": report["version"], "rows": report["rows"], "differ": report["differ"]}
        emit(db, "traffic.replayed", service.name, told, at_us=now, actor=loop.actor)
    return kept
