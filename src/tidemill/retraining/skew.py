"""Training-serving skew by distribution: what was served, against what training would see of the same days.

`parity` compares single values of rows that were served. This compares the whole populations, so it also finds rows that are asked about
and never trained on, or trained on and never asked about, and inputs that requests carry and the spine table has otherwise. Both sides are
mergeable profiles: those of what was served are kept day by day, and no request is read again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.core.instants import DAY_US, format_instant
from tidemill.core.privacy import private_columns
from tidemill.features import training_frame
from tidemill.ledger import schema
from tidemill.ledger.store import emit, fact, to_json, upsert
from tidemill.monitoring.drift import merged_profile, served_subject
from tidemill.monitoring.ports import Observation
from tidemill.retraining.alerts import tell
from tidemill.retraining.ports import Loop
from tidemill.training import FrameSource
from tidemill.validation.ports import Profile
from tidemill.versioning.ports import Scan

logger = logging.getLogger(__name__)
PREFIX, WORST = "skew:", "skew:max"
THRESHOLD = 0.1
"""Population stability index above which two populations are not the same any more (Siddiqi 2006: below 0.1 no significant change)."""
WINDOW_US = 7 * DAY_US
_BINS = 10


@dataclass(frozen=True, slots=True)
class ColumnSkew:
    """One model input.

    `psi`: population stability index of the served rows against the training path's; `chance`: what equal populations of this size have on
    average. Shares of nulls are 0 to 1; means are None unless it is a number.
    """

    column: str
    psi: float
    chance: float
    nulls_served: float
    nulls_trained: float
    mean_served: float | None
    mean_trained: float | None
    skewed: bool


@dataclass(frozen=True, slots=True)
class SkewReport:
    """All inputs of a service over whole days [from_us, until_us), most skewed first. `threshold` is what `psi` less `chance` may not pass."""

    service: str
    from_us: int
    until_us: int
    served: int
    trained: int
    threshold: float
    columns: tuple[ColumnSkew, ...]

    @property
    def skewed(self) -> tuple[ColumnSkew, ...]:
        """The inputs that are not what training sees."""
        return tuple(c for c in self.columns if c.skewed)


def compare(
    loop: Loop, service: Service, *, from_us: int | None = None, until_us: int | None = None, threshold: float = THRESHOLD
) -> SkewReport:
    """Compare what was served on whole days with what the training path makes of the same days; note it as observations `skew:COLUMN`.

    Args:
        loop: the platform.
        service: whose inputs.
        from_us: the first day; seven days before `until_us` by default.
        until_us: the end of the last day; that of the newest day with served rows by default. Both are cut to whole days.
        threshold: see `SkewReport`.

    A column that begins to be skewed is an event `features.skewed`, and an alert where alerts go somewhere.

    Raises:
        NotFoundError: nothing was served on these days.
        InvalidError: the spine has no row on these days, or the times are the wrong way round.
    """
    newest = _newest(loop, service) if until_us is None else until_us
    until = newest - newest % DAY_US
    since = until - WINDOW_US if from_us is None else from_us - from_us % DAY_US
    if since >= until:
        raise InvalidError(
            f"no whole day lies between {format_instant(since)} and {format_instant(until)}; choose times at least a day apart"
        )
    first, served = _served(loop, service, since, until)
    if served is None:
        raise NotFoundError(
            f"service {service.name!r} has no profile of served rows from {format_instant(since)} to {format_instant(until)}; "
            "they are made a day at a time while it is monitored"
        )
    since = max(since, first - first % DAY_US)  # days before anything was served are no skew
    trained = loop.profiler.profile(_uniform(_trained(loop, service, since, until), service))
    columns = [_column(served, trained, c, threshold) for c in trained.columns() if c in served.columns()]
    columns.sort(key=lambda c: (c.chance - c.psi, c.column))
    report = SkewReport(service.name, since, until, served.rows, trained.rows, threshold, tuple(columns))
    _note(loop, report)
    return report


def check(loop: Loop, service: Service) -> SkewReport | None:
    """`compare` the last seven whole days, once for each; None when that is done, or when there is nothing to compare yet."""
    today = loop.clock.now_us() - loop.clock.now_us() % DAY_US
    if _noted(loop, service.name).get("until_us", 0) >= today:
        return None
    try:
        return compare(loop, service, until_us=today)
    except NotFoundError:  # nothing was served, or is profiled yet
        return None
    except InvalidError as error:  # the spine has no rows of these days: not looked for again today
        logger.warning("features.skew_unknown", extra={"service": service.name, "reason": str(error)})
        with loop.ledger.write(durable=False) as db:
            value = to_json({**_noted(loop, service.name), "until_us": today})
            upsert(db, schema.state, {"name": f"skew:{service.name}", "value": value, "at_us": loop.clock.now_us()})
        return None


def _newest(loop: Loop, service: Service) -> int:
    p = schema.profile.c
    with loop.ledger.read() as db:
        found = db.execute(
            sa.select(sa.func.max(p.until_us)).where(p.subject.startswith(f"served:{service.name}/", autoescape=True))
        ).scalar()
    if found is None:
        raise NotFoundError(f"service {service.name!r} has served nothing that was monitored yet")
    return -(-int(found) // DAY_US) * DAY_US


def _served(loop: Loop, service: Service, from_us: int, until_us: int) -> tuple[int, Profile | None]:
    """Of all versions together, and from when on there is one."""
    p = schema.profile.c
    mine = sa.and_(p.subject.startswith(f"served:{service.name}/", autoescape=True), p.from_us >= from_us, p.until_us <= until_us)
    with loop.ledger.read() as db:
        rows = db.execute(sa.select(p.subject, sa.func.min(p.from_us)).where(mine).group_by(p.subject)).all()
    first, out = min((int(row[1]) for row in rows), default=from_us), None
    for version in sorted(int(row[0].rpartition("/")[2]) for row in rows):
        subject = served_subject(service.name, version)
        more = merged_profile(loop.ledger, loop.profiler, subject, from_us=from_us, until_us=until_us)
        out = out.merge(more) if out and more else out or more
    return first, out


def _trained(loop: Loop, service: Service, from_us: int, until_us: int) -> pa.Table:
    def frame(found: Service, rows: pa.Table, scans: Mapping[str, Scan]) -> pa.Table:
        return training_frame(found, rows, loop.offline, scans)

    source = FrameSource(loop.definitions, frame, loop.tables, loop.labels)
    rows, _counts = source.derive(service, from_us=from_us, until_us=until_us - 1, labelled=False)
    if not rows.num_rows:
        raise InvalidError(f"table {service.spine.name!r} has no row from {format_instant(from_us)} to {format_instant(until_us)}")
    return rows


def _uniform(rows: pa.Table, service: Service) -> pa.Table:
    """The model's inputs as the log has them, so that both profiles are of the same kinds; personal ones are left out, as the log has hashes of them."""
    hidden = private_columns(service)
    inputs = [c for c in service.columns if c not in hidden]
    columns = []
    for name in inputs:
        column = rows.column(name)
        columns.append(column.cast(pa.float64()) if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) else column)
    return pa.table(columns, names=inputs)


def _column(served: Profile, trained: Profile, name: str, threshold: float) -> ColumnSkew:
    mine, theirs = trained.column(name), served.column(name)
    psi = trained.distance(served, name) if mine["kind"] == theirs["kind"] else float("inf")
    chance = _BINS * (1 / max(1, served.rows) + 1 / max(1, trained.rows))
    return ColumnSkew(
        name, psi, chance, _nulls(theirs), _nulls(mine), theirs.get("mean"), mine.get("mean"), skewed=psi - chance > threshold
    )  # fmt: skip


def _nulls(figures: Mapping[str, Any]) -> float:
    rows = figures["n"] + figures["nulls"]
    return figures["nulls"] / rows if rows else 0.0


def _noted(loop: Loop, service: str) -> dict[str, Any]:
    with loop.ledger.read() as db:
        return fact(db, f"skew:{service}") or {}


def _note(loop: Loop, report: SkewReport) -> None:
    now, name = loop.clock.now_us(), report.service
    before = {c["column"] for c in _noted(loop, name).get("columns", ()) if c["skewed"]}
    new = [c for c in report.skewed if c.column not in before]
    window = (report.from_us, report.until_us)
    observed = [
        Observation(name, 0, f"{PREFIX}{c.column}", *window, c.psi, None, None, report.served, report.served, {"chance": c.chance})
        for c in report.columns
        if c.psi != float("inf")
    ]
    loop.metrics.write(observed, at_us=now)
    body = {"from_us": report.from_us, "until_us": report.until_us, "served": report.served, "trained": report.trained}
    told = [asdict(c) | {"psi": c.psi if c.psi != float("inf") else None} for c in report.columns]
    with loop.ledger.write() as db:
        value = to_json({**body, "threshold": report.threshold, "columns": told})
        upsert(db, schema.state, {"name": f"skew:{name}", "value": value, "at_us": now})
        if new:
            emit(db, "features.skewed", name, {**body, "columns": {c.column: in_words(c) for c in new}}, at_us=now, actor=loop.actor)
    if new:
        _alert(loop, report, new)


def _alert(loop: Loop, report: SkewReport, new: list[ColumnSkew]) -> None:
    text = f"{report.service}: served inputs are not what training sees: " + "; ".join(f"{c.column} ({in_words(c)})" for c in new[:5])
    logger.warning("features.skewed", extra={"service": report.service, "columns": [c.column for c in new]})
    tell(loop, f"features.skewed:{report.service}", {"text": text, "at": format_instant(loop.clock.now_us())})


def in_words(c: ColumnSkew) -> str:
    """What differs, for people: a share of nulls, a mean, else the shape or the kind."""
    if c.psi == float("inf"):
        return "served as another kind of value than it is trained on"
    if abs(c.nulls_served - c.nulls_trained) > 0.05:
        return f"{c.nulls_served:.0%} null when served, {c.nulls_trained:.0%} in training"
    if c.mean_served is not None and c.mean_trained is not None and not _near(c.mean_served, c.mean_trained):
        return f"mean {c.mean_served:.4g} when served, {c.mean_trained:.4g} in training"
    return f"another distribution, index {c.psi:.2f}"


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 0.1 * max(abs(a), abs(b))
