"""One turn of monitoring: what was served is profiled, its quality restated, its drift measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from tidemill.core.definitions import Service
from tidemill.core.errors import NotFoundError
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.core.privacy import private_columns
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.monitoring.drift import baseline_subject, drift, keep_profile, merged_profile, profile_served, served_inputs, served_subject
from tidemill.monitoring.ports import LabelStore, Observation
from tidemill.monitoring.quality import Metrics, quality
from tidemill.registry.ports import ModelRegistry
from tidemill.serving.ports import Prediction, PredictionLog
from tidemill.validation.ports import Profile, Profiler
from tidemill.versioning.ports import BlobStore

WINDOW_US = 7 * DAY_US


class _Once:
    """Scores and labels, each window read once for all versions of a turn."""

    def __init__(self, log: PredictionLog, labels: LabelStore) -> None:
        self.scores = lru_cache(maxsize=None)(log.scores)
        self.as_of = lru_cache(maxsize=None)(labels.as_of)


def observe(
    service: Service,
    *,
    from_us: int,
    until_us: int,
    ledger: Ledger,
    log: PredictionLog,
    labels: LabelStore,
    profiler: Profiler,
    registry: ModelRegistry,
    blobs: BlobStore,
    metrics: Metrics,
    now_us: int,
) -> list[Observation]:
    """Observe what a service answered, up to `until_us`; calling it again restates the same windows.

    Per version that answered in [from_us, until_us): each touched day's inputs are profiled (a day still under way at most hourly), drift and
    labelled quality are stated over the seven days to the end of the last whole day, and quality of the service as a whole (version 0).

    Returns:
        Quality and drift of the windows, as written to `metrics`.
    """
    versions = _answering(ledger, service.name, from_us, until_us)
    ports: dict[str, Any] = {"ledger": ledger, "profiler": profiler, "registry": registry, "blobs": blobs}
    baselines = {v: baseline(service.name, v, at_us=now_us, **ports) for v in versions}
    for day in range(from_us - from_us % DAY_US, until_us, DAY_US):
        _profile_day(service, baselines, day, ledger=ledger, log=log, profiler=profiler, now_us=now_us)
    end = until_us - until_us % DAY_US
    out: list[Observation] = []
    if not versions or end <= from_us - from_us % DAY_US - WINDOW_US:
        return out
    reach = service.lead_us + service.label.matures_us
    start = end - WINDOW_US - (-(-reach // DAY_US)) * DAY_US
    once: Any = _Once(log, labels)
    for version in (None, *versions):
        quality(service, version, log=once, labels=once, metrics=metrics, from_us=start, until_us=end - WINDOW_US, at_us=now_us)
        out.append(quality(service, version, log=once, labels=once, metrics=metrics, from_us=end - WINDOW_US, until_us=end, at_us=now_us))
    for version, trained in baselines.items():
        if trained is not None:
            window = {"from_us": end - WINDOW_US, "until_us": end, "at_us": now_us}
            out += drift(service.name, version, profiler=profiler, ledger=ledger, metrics=metrics, baseline=trained, **window)
    return out


def baseline(
    service: str, version: int, *, ledger: Ledger, profiler: Profiler, registry: ModelRegistry, blobs: BlobStore, at_us: int
) -> Profile | None:
    """The profile of a version's training inputs: from the ledger, or from the blob that the version's `meta["baseline"]` names; else None."""
    subject = baseline_subject(service, version)
    found = merged_profile(ledger, profiler, subject)
    if found is not None:
        return found
    digest = registry.get(service, version).meta.get("baseline")
    if not digest:
        return None
    try:
        profile = profiler.load(blobs.fetch(str(digest)).read_bytes())
    except NotFoundError:
        return None
    keep_profile(ledger, subject, profile, from_us=0, until_us=0, at_us=at_us)
    return profile


def _answering(ledger: Ledger, service: str, from_us: int, until_us: int) -> Sequence[int]:
    """Versions that were live or canary at some time in the window."""
    d = schema.deployment
    query = sa.select(d.c.version).where(d.c.service == service, d.c.started_us < until_us, d.c.role != "shadow")
    with ledger.read() as db:
        rows = db.execute(query.where(sa.or_(d.c.ended_us.is_(None), d.c.ended_us > from_us)).distinct().order_by(d.c.version))
        return [int(v) for v in rows.scalars()]


def _profile_day(
    service: Service,
    baselines: Mapping[int, Profile | None],
    day: int,
    *,
    ledger: Ledger,
    log: PredictionLog,
    profiler: Profiler,
    now_us: int,
) -> None:
    until = day + DAY_US
    due = {v for v, typed in baselines.items() if typed is not None and _stale(ledger, served_subject(service.name, v), day, until, now_us)}
    if not due:
        return
    by_version: dict[int, list[Prediction]] = {v: [] for v in due}
    for prediction in log.read(service.name, from_us=day, until_us=until):
        if prediction.version in due:
            by_version[prediction.version].append(prediction)
    private = private_columns(service)
    for version, rows in by_version.items():
        table = served_inputs(rows, baselines[version], without=private)
        profile_served(service.name, version, table, profiler=profiler, ledger=ledger, from_us=day, until_us=until, at_us=now_us)


def _stale(ledger: Ledger, subject: str, day: int, until: int, now_us: int) -> bool:
    p = schema.profile
    query = sa.select(p.c.at_us).where(p.c.subject == subject, p.c.from_us == day, p.c.until_us == until)
    with ledger.read() as db:
        made = db.execute(query).scalar()
    return made is None or (made < until and now_us - made >= min(HOUR_US, max(0, until - made)))
