"""A believable year in a ledger, written straight through `ledger.schema`: what pages are built and timed against."""

from __future__ import annotations

import math
import random
from typing import Any

import sqlalchemy as sa

from tests.support.sample_story import DAY, SERVICE, VERSIONS, Version, day, us
from tidemill.core import ids
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, to_json

TABLES = {"schedule": 920, "departures": 905, "landings": 898, "weather": 72}
REJECTED = {
    "departures": (
        "2013-04-18",
        "dep_delay",
        "quantiles",
        "0.5 quantile in [-6, 4]",
        "0.5 quantile is -120 (seconds instead of minutes?)",
        0,
    ),
    "schedule": ("2013-06-11", "tailnum", "null_fraction", "at most 2% null", "33.4% null", 311),
    "landings": ("2013-12-30", "arr_delay", "missing_column", "column arr_delay (number)", "no such column; arrival_delay is new", 0),
}
INPUTS = (
    "traffic__dep_delay_mean_3h", "traffic__count_3h", "arrivals__arr_delay_mean_6h", "form__arr_delay_mean_24h", "legs__arr_delay",
    "sky__wind_speed", "sky__visib", "sky__precip", "sky__temp", "carrier", "origin", "dest", "distance", "hour", "weekday",
)  # fmt: skip


def fill(ledger: Ledger, *, days: int = 365) -> None:
    """Write the year (or its first `days`) into an empty ledger."""
    rng = random.Random(7)
    with ledger.write(durable=False) as db:
        _batches(db, rng, days)
        for version in VERSIONS:
            if version.day < days:
                _learn(db, rng, version)
        _observe(db, rng, days)
        _facts(db, rng, days)


def _put(db: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        db.execute(table.insert(), rows)


def emit(db: sa.Connection, kind: str, subject: str, at_us: int, body: dict[str, Any], actor: str = "reconciler") -> None:
    """One event of the audit log."""
    row = {
        "id": ids.derive("event", kind, subject, at_us),
        "at_us": at_us,
        "kind": kind,
        "subject": subject,
        "actor": actor,
        "body": to_json(body),
    }
    _put(db, schema.event, [row])


def _batches(db: sa.Connection, rng: random.Random, days: int) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(days):
        for table, size in TABLES.items():
            bad = REJECTED.get(table)
            at_us = us("2013-01-01") + number * DAY + 86_000_000_000 + rng.randrange(300_000_000)
            if bad and day(bad[0]) == number:
                rows.append(_batch(rng, table, at_us, size, number, bad))
                at_us += 3_600_000_000
            rows.append(_batch(rng, table, at_us, size, number, None))
    _put(db, schema.batch, rows)
    for row in rows:
        body = {"rows": row["rows"], "anomalies": len(row["anomalies"]) > 2}
        emit(db, f"batch.{row['status']}", f"{row['table_name']}/{row['id']}", row["at_us"], body, "ingestion")


def _batch(rng: random.Random, table: str, at_us: int, size: int, number: int, bad: tuple[Any, ...] | None) -> dict[str, Any]:
    rows = int(size * (1 + 0.12 * math.sin(number / 7 * 2 * math.pi) + rng.gauss(0, 0.03)))
    anomaly = [{"column": bad[1], "rule": bad[2], "expected": bad[3], "observed": bad[4], "rows": bad[5]}] if bad else []
    batch_id = ids.derive("batch", table, number, bool(bad))
    return {
        "id": batch_id, "table_name": table, "source": f"files:data/{table}/{number:03d}.parquet", "status": "rejected" if bad else "published",
        "rows": rows, "snapshot_id": rng.getrandbits(62), "branch": f"audit-{batch_id}" if bad else None, "anomalies": to_json(anomaly),
        "cursor": f"{number:03d}", "digest": f"sha256:{rng.getrandbits(256):064x}", "at_us": at_us, "wall_ms": rng.uniform(38, 90),
    }  # fmt: skip


def _learn(db: sa.Connection, rng: random.Random, v: Version) -> None:
    cause_id, run_id = ids.derive("cause", v.number), v.run_id
    _put(
        db,
        schema.cause,
        [
            {
                "id": cause_id,
                "kind": v.cause,
                "service": SERVICE,
                "at_us": v.at_us,
                "evidence": to_json(v.cause_evidence()),
                "run_id": run_id,
            }
        ],
    )
    emit(db, "cause", SERVICE, v.at_us, {"cause": cause_id, "kind": v.cause})
    wall = rng.uniform(5, 14)
    _put(db, schema.run, [v.run_row(cause_id, wall)])
    _put(db, schema.step_run, v.steps(rng))
    _put(db, schema.param, [{"run_id": run_id, "name": k, "value": str(x)} for k, x in v.params(rng).items()])
    metrics = v.metrics(rng)
    _put(db, schema.metric, metrics)
    _put(db, schema.metric_last, list({row["name"]: row for row in metrics}.values()))
    emit(db, f"run.{v.run_status}", run_id, v.at_us + int(wall * 1e6), {"pipeline": "train", "version": v.number})
    if v.run_status != "finished":
        return
    row = {
        "name": SERVICE,
        "version": v.number,
        "digest": v.digest,
        "run_id": run_id,
        "status": v.status,
        "at_us": v.at_us + int(wall * 1e6),
    }
    _put(db, schema.model_version, [{**row, "metrics": to_json(v.scores()), "meta": to_json(v.meta())}])
    _put(db, schema.decision, v.decisions())
    _put(db, schema.deployment, v.deployments())
    for d in v.decisions():
        emit(db, "decision", d["subject"], d["at_us"], {"kind": d["kind"], "outcome": d["outcome"], "decision": d["id"]})


def _observe(db: sa.Connection, rng: random.Random, days: int) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(day("2013-03-01"), days):
        version = max((v for v in VERSIONS if v.live_day is not None and v.live_day <= number), key=lambda v: v.live_day or 0)
        today = _day(rng, number, version)
        rows += [*today, *({**row, "version": 0} for row in today), *_week(rows, today)]
        if number % 7 == 6:
            rows += _drift(rng, number, version)
    _put(db, schema.observation, rows)


def _week(before: list[dict[str, Any]], today: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The service as a whole over the last seven days."""
    out = []
    for row in today:
        past = [
            r for r in before[-60:] if r["version"] == 0 and r["objective"] == row["objective"] and r["until_us"] - r["from_us"] == DAY
        ][-6:]
        days = [*past, row]
        mean, half = sum(r["value"] for r in days) / len(days), (row["high"] - row["low"]) / 4
        total = {"n": sum(r["n"] for r in days), "covered": sum(r["covered"] for r in days)}
        out.append(
            {**row, **total, "version": 0, "from_us": row["until_us"] - 7 * DAY, "value": mean, "low": mean - half, "high": mean + half}
        )
    return out


def season(number: int) -> float:
    """How hard the day is: summer storms and the December holidays."""
    return (
        0.055 * math.exp(-(((number - 185) / 38) ** 2))
        + 0.05 * math.exp(-(((number - 353) / 16) ** 2))
        + 0.02 * math.sin(number / 7 * 2 * math.pi)
    )


def _observation(version: int, objective: str, number: int, length: int, value: float, half: float, n: int, covered: int) -> dict[str, Any]:
    until = us("2013-01-01") + (number + 1) * DAY
    return {
        "service": SERVICE, "version": version, "objective": objective, "from_us": until - length * DAY, "until_us": until, "value": value,
        "low": value - half if half else None, "high": value + half if half else None, "n": n, "covered": covered, "body": "{}", "at_us": until,
    }  # fmt: skip


def _day(rng: random.Random, number: int, version: Version) -> list[dict[str, Any]]:
    age = number - (version.live_day or 0)
    loss = 0.452 + season(number) + 0.00022 * age + rng.gauss(0, 0.016)
    n = int(900 + rng.gauss(0, 30))
    covered = int(n * (0.985 if number < 363 else 0.985 - 0.4 * (number - 362)))
    auc = 0.79 - 0.45 * (loss - 0.45) + rng.gauss(0, 0.006)
    pairs = (("log_loss", loss, 0.028), ("auc", auc, 0.021), ("brier", loss * 0.31, 0.011))
    return [_observation(version.number, name, number, 1, value, half, n, covered) for name, value, half in pairs]


def _drift(rng: random.Random, number: int, version: Version) -> list[dict[str, Any]]:
    age = number - (version.live_day or 0)
    strength = {"sky__temp": 0.0045, "traffic__dep_delay_mean_3h": 0.0018, "sky__visib": 0.0008, "form__arr_delay_mean_24h": 0.0011}
    values = {c: abs(0.012 + strength.get(c, 0.0001) * age + rng.gauss(0, 0.006)) for c in INPUTS}
    rows = [_observation(version.number, f"psi:{c}", number, 7, value, 0.0, 6300, 6300) for c, value in values.items()]
    worst = max(values, key=lambda c: values[c])
    top = _observation(version.number, "psi:max", number, 7, values[worst], 0.0, 6300, 6300)
    return [*rows, {**top, "body": to_json({"column": worst})}]


def _facts(db: sa.Connection, rng: random.Random, days: int) -> None:
    at_us = us("2013-01-01") + days * DAY
    champion = [v for v in VERSIONS if v.status == "champion" and v.day < days]
    aliases = [("champion", v.number) for v in champion] + [
        ("challenger", v.number) for v in VERSIONS if v.status == "challenger" and v.day < days
    ]
    _put(db, schema.model, [{"name": SERVICE, "at_us": us("2013-03-01"), "meta": "{}"}])
    _put(db, schema.model_alias, [{"name": SERVICE, "alias": a, "version": n, "decision_id": None, "at_us": at_us} for a, n in aliases])
    parity = {"service": SERVICE, "rows": 274_803, "values": 4_122_045, "differences": 0, "examples": [], "by_column": {}}
    look = {**VERSIONS[-1].sequence(8), "version": VERSIONS[-1].number, "role": "canary", "weight": 0.1, "margin": 0.02}
    facts: dict[str, Any] = {f"rollout:{SERVICE}": look, f"parity:{SERVICE}": parity, "replay:2013": replay(rng)}
    _put(db, schema.state, [{"name": k, "value": to_json(v), "at_us": at_us} for k, v in facts.items()])


def replay(rng: random.Random) -> dict[str, Any]:
    """The summary of a replay of three policies over March to December."""
    spec = {
        "never": (0.00034, [], 1, 0.1),
        "monthly": (0.0, list(range(90, 360, 30)), 10, 1.6),
        "on-drift": (0.0, [111, 153, 204, 266, 347], 8, 1.3),
    }
    weather = {w: rng.gauss(0, 0.012) for w in range(60, 365, 7)}
    policies = []
    for name, (decay, trained, trainings, minutes) in spec.items():
        weeks = []
        for start in range(60, 365, 7):
            last = max([t for t in trained if t <= start], default=60)
            gap = decay * (start - 60) if not trained else 0.00024 * (start - last)
            value = 0.447 + season(start) * 1.1 + gap + weather[start] + rng.gauss(0, 0.002)
            weeks.append({"week_us": us("2013-01-01") + start * DAY, "log_loss": value, "n": int(6300 + rng.gauss(0, 90))})
        mean = sum(w["log_loss"] * w["n"] for w in weeks) / sum(w["n"] for w in weeks)
        events = [
            {"at_us": us("2013-01-01") + t * DAY, "kind": "promote", "text": f"rollout: live {SERVICE}/{i + 2}"}
            for i, t in enumerate(trained)
        ]
        if name == "on-drift":
            events.append({"at_us": us("2013-08-26"), "kind": "rollback", "text": f"rollout: rollback {SERVICE}/6"})
        policies.append({
            "name": name, "log_loss": mean, "auc": 0.79 - 0.45 * (mean - 0.45), "n": sum(w["n"] for w in weeks), "trainings": trainings, "minutes": minutes,
            "promotions": len(trained), "rollbacks": int(name == "on-drift"), "weeks": weeks, "events": events,
        })  # fmt: skip
    return {
        "id": "2013",
        "service": SERVICE,
        "from_us": us("2013-03-01"),
        "until_us": us("2013-12-31"),
        "policies": policies,
        "primary": "on-drift",
    }
