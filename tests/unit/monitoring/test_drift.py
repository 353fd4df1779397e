"""Drift from mergeable profiles, and one turn of monitoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from tests.support.monitoring_stage import START, Stage

from tidemill.core.errors import NotFoundError
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.ledger import schema
from tidemill.ledger.store import insert_once
from tidemill.monitoring import drift, observe, profile_served
from tidemill.monitoring.drift import baseline_subject, keep_profile, served_inputs
from tidemill.monitoring.ports import Observation
from tidemill.registry.ports import ModelVersion
from tidemill.serving.ports import Prediction
from tidemill.validation.embedded import SketchProfiler

PROFILER = SketchProfiler()


def table(seed: int, shift: float = 0.0, n: int = 2000) -> pa.Table:
    x = np.random.default_rng(seed).normal(size=n) + shift
    return pa.table({"x": x, "origin": pa.array(["EWR" if v > 0 else None for v in x], pa.string())})


def measure(stage: Stage, from_day: int, until_day: int) -> dict[str, Observation]:
    start, end = START + from_day * DAY_US, START + until_day * DAY_US
    found = drift("delay", 1, profiler=PROFILER, ledger=stage.ledger, metrics=stage.metrics, from_us=start, until_us=end, at_us=end)
    return {o.objective: o for o in found}


def keep(stage: Stage, subject: str, rows: pa.Table, day: int) -> None:
    keep_profile(
        stage.ledger, subject, PROFILER.profile(rows), from_us=START + day * DAY_US, until_us=START + (day + 1) * DAY_US, at_us=START
    )


def test_a_shifted_column_is_seen_and_a_steady_one_is_not(stage: Stage) -> None:
    keep(stage, baseline_subject("delay", 1), table(0), -1)
    for day, shift in enumerate([0.0, 0.0, 1.0, 1.0]):
        rows = table(day + 1, shift)
        span = {"from_us": START + day * DAY_US, "until_us": START + (day + 1) * DAY_US, "at_us": START}
        profile_served("delay", 1, rows, profiler=PROFILER, ledger=stage.ledger, **span)
    calm, moved = measure(stage, 0, 2), measure(stage, 2, 4)
    assert calm["psi:max"].value is not None
    assert moved["psi:max"].value is not None
    assert calm["psi:max"].value < 0.05 < 0.2 < moved["psi:max"].value
    assert moved["psi:max"].body["column"] == "x"
    assert moved["psi:x"].value == moved["psi:max"].value
    assert (calm["psi:x"].n, set(calm)) == (4000, {"psi:x", "psi:origin", "psi:max"})
    assert stage.metrics.read("delay", objective="psi:max") == [calm["psi:max"], moved["psi:max"]]


def test_merged_days_say_what_the_raw_rows_say(stage: Stage) -> None:
    keep(stage, baseline_subject("delay", 1), table(0), -1)
    days = [table(day + 1, 0.2 * day) for day in range(4)]
    for day, rows in enumerate(days):
        keep(stage, "served:delay/1", rows, day)
    raw = PROFILER.profile(table(0)).distance(PROFILER.profile(pa.concat_tables(days)), "x")
    assert measure(stage, 0, 4)["psi:x"].value == pytest.approx(raw, abs=0.02)


def test_without_a_baseline_it_says_what_to_do_and_without_rows_nothing(stage: Stage) -> None:
    with pytest.raises(NotFoundError, match="register it with its training set"):
        measure(stage, 0, 1)
    keep(stage, baseline_subject("delay", 1), table(0), -1)
    assert measure(stage, 0, 1) == {}


def test_served_inputs_take_the_types_of_the_baseline(stage: Stage) -> None:
    baseline = PROFILER.profile(table(0))
    rows = [Prediction(str(i), "delay", "delay", 1, "live", i, 0.5, ("x", "origin", "new"), (v, None, i)) for i, v in enumerate([1, None])]
    typed = served_inputs(rows, baseline)
    assert (typed.schema.field("x").type, typed.schema.field("origin").type, typed.schema.field("new").type) == (
        pa.float64(),
        pa.string(),
        pa.float64(),
    )
    assert served_inputs([]).num_rows == 0


class _Registry:
    """Versions whose baseline profile is a blob."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta

    def get(self, name: str, version: int | str) -> ModelVersion:
        return ModelVersion(name, int(version), "d", "r", "champion", START, {}, self.meta)


class _Blobs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def fetch(self, digest: str) -> Path:
        if not self.path.exists():
            raise NotFoundError(digest)
        return self.path


def deploy(stage: Stage) -> None:
    row: dict[str, Any] = {
        "id": "d1",
        "service": "delay",
        "model": "delay",
        "version": 1,
        "role": "live",
        "weight": 1.0,
        "stage": 0,
        "decision_id": "x",
    }
    with stage.ledger.write() as db:
        insert_once(db, schema.deployment, row | {"since_us": START, "started_us": START, "ended_us": None})


def turn(stage: Stage, path: Path, from_us: int, until_us: int) -> list[Observation]:
    ports: dict[str, Any] = {
        "registry": cast("Any", _Registry({"baseline": "sha256:p"})),
        "blobs": cast("Any", _Blobs(path)),
        "profiler": PROFILER,
    }
    ports |= {"ledger": stage.ledger, "log": stage.log, "labels": stage.labels, "metrics": stage.metrics}
    return observe(stage.service, from_us=from_us, until_us=until_us, now_us=until_us, **ports)


def test_a_turn_profiles_states_quality_and_drift(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "profile").write_bytes(PROFILER.profile(table(0)).to_bytes())
    deploy(stage)
    seen: list[Observation] = []
    for day in range(10):
        stage.serve(day, shift=0.0 if day < 3 else 2.0)
        seen = turn(stage, tmp_path / "profile", START + day * DAY_US, START + (day + 1) * DAY_US)
    by_name = {(o.version, o.objective): o for o in seen}
    loss, covered, n = stage.plain_loss(3, 10, START + 10 * DAY_US)
    assert by_name[1, "log_loss"].value == pytest.approx(loss)
    assert by_name[0, "log_loss"].value == pytest.approx(loss)
    assert (by_name[1, "log_loss"].covered, by_name[1, "log_loss"].n) == (covered, n)
    worst = by_name[1, "psi:max"]
    assert worst.value is not None
    assert worst.value > 0.5
    assert worst.n == 7 * 48
    final = [o for o in stage.metrics.read("delay", objective="log_loss", version=1) if o.body.get("day", {}).get("final")]
    assert len(final) == 8  # days 0 to 7: two more days are needed for the labels of the last two


def test_a_turn_repeated_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "profile").write_bytes(PROFILER.profile(table(0)).to_bytes())
    deploy(stage)
    stage.serve(0)
    once = turn(stage, tmp_path / "profile", START, START + DAY_US)
    assert turn(stage, tmp_path / "profile", START, START + DAY_US) == once
    assert turn(stage, tmp_path / "missing", START, START + DAY_US) == once  # the baseline is in the ledger by now


def test_without_a_stored_profile_quality_is_still_stated(stage: Stage, tmp_path: Path) -> None:
    deploy(stage)
    stage.serve(0)
    seen = turn(stage, tmp_path / "missing", START, START + DAY_US)
    assert [o.objective for o in seen] == ["log_loss", "log_loss"]


def test_a_day_under_way_is_profiled_again_each_hour(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "profile").write_bytes(PROFILER.profile(table(0)).to_bytes())
    deploy(stage)
    stage.serve(0)

    def profiled_at() -> int:
        with stage.ledger.read() as db:
            return int(db.execute(sa.select(schema.profile.c.at_us).where(schema.profile.c.subject == "served:delay/1")).scalar_one())

    minute, found = HOUR_US // 60, []
    for at in (6 * HOUR_US, 6 * HOUR_US + 30 * minute, 7 * HOUR_US, 23 * HOUR_US + 50 * minute, 24 * HOUR_US):
        turn(stage, tmp_path / "profile", START, START + at)
        found.append((profiled_at() - START) // minute)
    assert found == [360, 360, 420, 1430, 1440]
