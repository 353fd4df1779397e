"""Drift of a model's inputs, from mergeable profiles: no row is read again, a window is the merge of its days.

The measure is the population stability index of the served rows against the profile of the training set that is kept with
the model version (Siddiqi 2006; bins come from the baseline alone, see `validation.ports.Profile.distance`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import reduce
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from tidemill.core.errors import NotFoundError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, upsert
from tidemill.monitoring.ports import MetricSink, Observation
from tidemill.serving.ports import Prediction
from tidemill.validation.ports import Profile, Profiler

_TYPES = {"number": pa.float64(), "text": pa.string(), "boolean": pa.bool_(), "time": pa.timestamp("us", tz="UTC")}


def baseline_subject(service: str, version: int) -> str:
    """Where the profile of a version's training set is kept."""
    return f"baseline:{service}/{version}"


def served_subject(service: str, version: int) -> str:
    """Where the daily profiles of a version's served inputs are kept."""
    return f"served:{service}/{version}"


def keep_profile(ledger: Ledger, subject: str, profile: Profile, *, from_us: int, until_us: int, at_us: int) -> None:
    """Store the profile of a window, replacing the one that is there."""
    values = {
        "subject": subject,
        "from_us": from_us,
        "until_us": until_us,
        "rows": profile.rows,
        "body": profile.to_bytes(),
        "at_us": at_us,
    }
    with ledger.write(durable=False) as db:
        upsert(db, schema.profile, values)


def merged_profile(ledger: Ledger, profiler: Profiler, subject: str, *, from_us: int = 0, until_us: int | None = None) -> Profile | None:
    """The merge of a subject's profiles whose windows lie inside [from_us, until_us]; None when there are none."""
    table = schema.profile
    query = sa.select(table.c.body).where(table.c.subject == subject, table.c.from_us >= from_us)
    if until_us is not None:
        query = query.where(table.c.until_us <= until_us)
    with ledger.read() as db:
        bodies = db.execute(query.order_by(table.c.from_us, table.c.until_us)).scalars().all()
    profiles = [profiler.load(body) for body in bodies]
    return reduce(lambda a, b: a.merge(b), profiles) if profiles else None


def served_inputs(predictions: Iterable[Prediction], baseline: Profile | None = None, *, without: Collection[str] = ()) -> pa.Table:
    """The inputs of logged predictions as columns, typed as the baseline has them (all numbers as float64).

    `without`: columns to leave out, for example personal ones, of which the log has hashes only.
    """
    rows = list(predictions)
    places = [(i, name) for i, name in enumerate(rows[0].columns if rows else ()) if name not in without]
    columns = [_column([r.values[i] for r in rows], baseline, name) for i, name in places]
    return pa.table(columns, names=[name for _, name in places])


def _column(values: list[Any], baseline: Profile | None, name: str) -> pa.Array:
    if baseline is not None and name in baseline.columns():
        kind = _TYPES[baseline.column(name)["kind"]]
        return pa.array(values, pa.int64()).cast(kind) if kind == _TYPES["time"] else pa.array(values, kind)
    found = pa.array(values)
    return found.cast(pa.float64()) if pa.types.is_integer(found.type) else found


def profile_served(
    service: str, version: int, rows: pa.Table, *, profiler: Profiler, ledger: Ledger, from_us: int, until_us: int, at_us: int
) -> Profile:
    """Summarise the inputs a version served in [from_us, until_us) and keep the summary; nothing is kept of no rows."""
    profile = profiler.profile(rows)
    if rows.num_rows:
        keep_profile(ledger, served_subject(service, version), profile, from_us=from_us, until_us=until_us, at_us=at_us)
    return profile


def drift(
    service: str,
    version: int,
    *,
    profiler: Profiler,
    ledger: Ledger,
    metrics: MetricSink,
    from_us: int,
    until_us: int,
    at_us: int,
    baseline: Profile | None = None,
) -> list[Observation]:
    """Observe the drift of every model input over [from_us, until_us] and write it: `psi:<column>` each, and `psi:max`.

    `baseline` is the version's own when None.

    Raises:
        NotFoundError: the version has no baseline profile.
    """
    baseline = baseline or merged_profile(ledger, profiler, baseline_subject(service, version))
    if baseline is None:
        raise NotFoundError(f"version {version} of {service!r} has no baseline profile; register it with its training set")
    served = merged_profile(ledger, profiler, served_subject(service, version), from_us=from_us, until_us=until_us)
    if served is None:
        return []
    shared = [c for c in baseline.columns() if c in served.columns()]
    values = {c: baseline.distance(served, c) for c in shared}
    body = {"method": "population stability index, bins of the baseline", "baseline_rows": baseline.rows}
    out = [
        Observation(service, version, f"psi:{c}", from_us, until_us, v, None, None, served.rows, served.rows, body)
        for c, v in values.items()
    ]
    if values:
        worst = max(values, key=lambda c: values[c])
        top = dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))[:5])
        out.append(
            Observation(
                service,
                version,
                "psi:max",
                from_us,
                until_us,
                values[worst],
                None,
                None,
                served.rows,
                served.rows,
                body | {"column": worst, "top": top},
            )
        )
    metrics.write(out, at_us=at_us)
    return out
