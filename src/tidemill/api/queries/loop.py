"""What happens now at each stage of the ring, from at most a dozen indexed reads."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tidemill.api.queries import monitoring, services, state
from tidemill.api.queries.rows import Record, fetch, one
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema

STAGES = ("ingest", "validate", "version", "features", "train", "gate", "register", "deploy", "serve", "monitor", "retrain")
FRESH_US = 2 * DAY_US


def ring(db: sa.Connection, service: str, now_us: int, objective: str = "log_loss") -> list[Record]:
    """Eleven stages {"stage", "state", "at_us", "fact"}; `state` is working, ok, attention or idle; `fact` a short text."""
    facts = {**_data(db, now_us), **_learning(db, service), **_serving(db, service, objective)}
    return [{"stage": name, **_fresh(facts.get(name) or _idle(), now_us)} for name in STAGES]


def _fresh(fact: Record, now_us: int) -> Record:
    if fact["state"] == "ok" and (fact["at_us"] is None or now_us - fact["at_us"] > 45 * DAY_US):
        return {**fact, "state": "idle"}
    return fact


def _idle(fact: str = "nothing yet") -> Record:
    return {"state": "idle", "at_us": None, "fact": fact}


def _fact(state: str, at_us: int | None, fact: str) -> Record:
    return {"state": state, "at_us": at_us, "fact": fact}


def _data(db: sa.Connection, now_us: int) -> dict[str, Record]:
    b = schema.batch.c
    last = one(db, sa.select(schema.batch).order_by(b.at_us.desc()))
    if last is None:
        return {}
    refused = one(db, sa.select(schema.batch).where(b.status == "rejected").order_by(b.at_us.desc()))
    recent = refused is not None and now_us - refused["at_us"] < FRESH_US
    published = one(db, sa.select(schema.batch).where(b.status == "published").order_by(b.at_us.desc()))
    return {
        "ingest": _fact("ok", last["at_us"], f"{last['rows']:,} {last['table_name']}"),
        "validate": _fact("attention", refused["at_us"], f"{refused['table_name']} refused")
        if refused is not None and recent
        else _fact("ok", last["at_us"], "all passed" if refused is None else "passing"),
        "version": _fact("ok", published["at_us"], f"{published['table_name']} ·{str(published['snapshot_id'])[-5:]}")
        if published
        else _idle(),
        "features": _features(db, last["at_us"]),
    }


def _features(db: sa.Connection, at_us: int) -> Record:
    parity = state.below(db, "parity:", limit=1)
    if parity and isinstance(parity[0]["value"], dict):
        wrong = int(parity[0]["value"].get("differences", 0))
        return _fact("attention" if wrong else "ok", parity[0]["at_us"], f"{wrong:,} differ" if wrong else "parity exact")
    return _fact("ok", at_us, "follows the data")


def _learning(db: sa.Connection, service: str) -> dict[str, Record]:
    r, d, v, c = schema.run.c, schema.decision.c, schema.model_version.c, schema.cause.c
    out: dict[str, Record] = {}
    run = one(db, sa.select(r.status, r.started_us, r.pipeline, r.wall_s).where(r.service == service).order_by(r.started_us.desc()))
    if run:
        word = {"running": "working", "failed": "attention"}.get(run["status"], "ok")
        out["train"] = _fact(
            word, run["started_us"], "running" if word == "working" else f"{run['status']} {_seconds(run['wall_s'])}".strip()
        )
    gate = one(db, sa.select(schema.decision).where(d.service == service, d.kind == "gate").order_by(d.at_us.desc()))
    if gate:
        out["gate"] = _fact("ok", gate["at_us"], f"{gate['outcome']} v{_version(gate['subject'])}")
    newest = one(db, sa.select(schema.model_version).where(v.name == service).order_by(v.version.desc()))
    if newest:
        out["register"] = _fact("ok", newest["at_us"], f"v{newest['version']} {newest['status'].replace('_', ' ')}")
    cause = one(db, sa.select(schema.cause).where(c.service == service).order_by(c.at_us.desc()))
    if cause:
        out["retrain"] = _fact("ok", cause["at_us"], f"by {cause['kind'].replace('_', ' ')}")
    return out


def _serving(db: sa.Connection, service: str, objective: str) -> dict[str, Record]:
    out: dict[str, Record] = {}
    now = services.current(db, service)
    if now:
        trying = [d for d in now if d["role"] != "live"]
        newest = max(now, key=lambda d: d["since_us"])
        said = f"{trying[0]['role']} v{trying[0]['version']}" if trying else f"v{now[0]['version']} live"
        out["deploy"] = _fact("working" if trying else "ok", newest["since_us"], said)
        live = next((d for d in now if d["role"] == "live"), None)
        out["serve"] = _fact("ok", newest["since_us"], f"v{live['version']} · {live['weight']:.0%}") if live else _idle("nothing live")
    seen = next(iter(monitoring.served(db, service, objective, limit=1)), None)
    if seen and seen["value"] is not None:
        out["monitor"] = _fact("ok", seen["until_us"], f"{objective.replace('_', ' ')} {seen['value']:.3f}")
    return out


def _seconds(wall_s: float | None) -> str:
    return f"in {wall_s:.0f} s" if wall_s else ""


def _version(subject: str) -> str:
    return subject.replace("@", "/").rpartition("/")[2]


def champions(db: sa.Connection, names: list[str]) -> dict[str, Record]:
    """The champion's alias row by model name, with the version's own row under `row`."""
    a, v = schema.model_alias.c, schema.model_version.c
    out: dict[str, Record] = {}
    for alias in fetch(db, sa.select(schema.model_alias).where(a.alias == "champion", a.name.in_(names))):
        row: Any = one(db, sa.select(schema.model_version).where(v.name == alias["name"], v.version == alias["version"]))
        out[alias["name"]] = {**alias, "row": row}
    return out
