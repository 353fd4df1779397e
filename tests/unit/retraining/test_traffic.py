"""Logged traffic, answered again by another version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.support.loop_world import START, Make, World

from tidemill.api.queries import traffic as queries
from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.core.instants import DAY_US
from tidemill.retraining.reconcile import reconcile
from tidemill.retraining.traffic import replay_traffic
from tidemill.serving.ports import Prediction


@pytest.fixture
def served(make: Make) -> World:
    """Four days answered by a fair version; a good one is registered, and not deployed."""
    world = make()
    world.train = ["fair"]
    world.publish()
    reconcile(world.loop, world.service, world.clock.now_us())
    world.loop.registry.register("delay", "good", run_id="by-hand", metrics={}, meta={}, at_us=START)
    world.serve(START + 4 * DAY_US)
    return world


def test_the_version_that_answered_answers_equally(served: World) -> None:
    report = replay_traffic(served.loop, served.service, 1)
    assert (report["rows"], report["differ"], report["apart"]["max"]) == (960, 0.0, pytest.approx(0, abs=1e-12))
    assert report["quality"]["difference"] == pytest.approx(0, abs=1e-12)


def test_a_better_version_is_seen_to_be_better_and_where(served: World) -> None:
    report = replay_traffic(served.loop, served.service, 2)
    rows = list(served.loop.log.read("delay", roles=["live"]))
    again = {p.id: 1 / (1 + np.exp(-1.8 * p.values[0])) for p in rows}
    assert report["differ"] > 0.99
    assert report["mean_candidate"] == pytest.approx(float(np.mean(list(again.values()))))
    apart = sorted(rows, key=lambda p: -abs(again[p.id] - p.score))[:20]
    assert [item["id"] for item in report["largest"]] == [p.id for p in apart]
    assert report["largest"][0]["candidate"] == pytest.approx(again[apart[0].id])
    quality = report["quality"]
    assert quality["labelled"] == 960 - 19, "labels of the last two hours have not come"
    assert quality["high"] < 0
    assert (sum(report["scores"]["logged"]), sum(report["scores"]["candidate"])) == (960, 960)
    assert [(s["slice"], s["group"], s["rows"]) for s in report["slices"]] == [("answered by", "v1", 960)]


def test_the_report_is_kept_and_told(served: World) -> None:
    report = replay_traffic(served.loop, served.service, 2, from_us=START, until_us=START + DAY_US)
    assert report["rows"] == 240
    with served.loop.ledger.read() as db:
        assert queries.one(db, report["id"])["largest"] == report["largest"]
        assert [row["id"] for row in queries.listing(db, "delay")] == [report["id"]]
        assert queries.listing(db, "other") == []
        with pytest.raises(NotFoundError, match="replay-traffic"):
            queries.one(db, "traffic-none")


def test_what_cannot_be_replayed_says_why(served: World) -> None:
    with pytest.raises(NotFoundError):
        replay_traffic(served.loop, served.service, 9)
    with pytest.raises(InvalidError, match="nothing that 'delay' answered"):
        replay_traffic(served.loop, served.service, 2, until_us=START)
    with pytest.raises(InvalidError, match="reads signal, which the service does not have"):
        replay_traffic(served.loop, replace(served.service, features=["other"]), 2)
    personal = replace(served.service.spine, pii=("signal",))
    with pytest.raises(InvalidError, match="signal, which is personal"):
        replay_traffic(served.loop, replace(served.service, spine=personal), 2)


def test_degraded_answers_and_shadows_are_left_out(served: World) -> None:
    at = START + 4 * DAY_US
    make: dict[str, Any] = {
        "service": "delay",
        "model": "delay",
        "version": 1,
        "at_us": at,
        "score": 0.5,
        "columns": ("signal",),
        "values": (0.0,),
    }
    served.loop.log.append([Prediction(id="d", role="live", degraded="default", **make), Prediction(id="s", role="shadow", **make)])
    report = replay_traffic(served.loop, served.service, 2)
    assert (report["rows"], report["degraded"]) == (960, 1)
