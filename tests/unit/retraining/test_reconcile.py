"""The loop's story from the first model to a rollback, and that being killed anywhere changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.support.loop_world import Make, World, deployments_of, make_world, with_ledger

from tidemill.core.definitions import Rollout, on_new_data
from tidemill.core.instants import DAY_US
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.retraining import decisions, transitions
from tidemill.retraining.reconcile import Action, observe, plan, reconcile

TABLES = ("event", "cause", "run", "decision", "deployment", "model_version", "model_alias", "lineage", "state")


def turn(world: World) -> list[Action]:
    return reconcile(world.loop, world.service, world.clock.now_us())


def days(world: World, count: int) -> list[tuple[str, int]]:
    """Publish, reconcile and serve for so many days; what was done."""
    done: list[tuple[str, int]] = []
    for _ in range(count):
        world.publish()
        done += [(a.kind, a.version) for a in turn(world)]
        world.serve(world.clock.now_us() + DAY_US)
    return done


def outcomes(world: World, kind: str) -> list[tuple[str, str]]:
    return [(d.subject, d.outcome) for d in reversed(decisions.listing(world.loop.ledger, kind=kind))]


def statuses(world: World) -> dict[int, str]:
    return {v.version: v.status for v in world.loop.registry.versions("delay")}


def test_from_nothing_to_a_live_model_and_then_rest(world: World) -> None:
    assert turn(world) == []
    world.publish()
    assert [a.kind for a in turn(world)] == ["cause", "launch", "judge", "deploy"]
    assert turn(world) == []
    assert world.loop.registry.get("delay", "champion").version == 1
    assert [(d["role"], d["weight"], d["version"]) for d in deployments_of(world.loop.ledger, "delay")] == [("live", 1.0, 1)]
    assert statuses(world) == {1: "champion"}
    assert len(world.launches) == 1


def test_a_better_model_goes_through_shadow_and_canaries_to_live(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")])
    world.train = ["fair", "good"]
    done = days(world, 14)
    assert done == [
        ("cause", 0), ("launch", 0), ("judge", 1), ("deploy", 1),
        ("cause", 0), ("launch", 0), ("judge", 2), ("start", 2), ("move", 2), ("move", 2), ("move", 2),
        ("cause", 0), ("launch", 0), ("judge", 3),
    ]  # fmt: skip
    assert outcomes(world, "rollout") == [
        ("delay/1", "promote"), ("delay/2", "start"), ("delay/2", "advance"), ("delay/2", "advance"), ("delay/2", "promote"),
    ]  # fmt: skip
    assert outcomes(world, "gate") == [("delay/1", "promote"), ("delay/2", "promote"), ("delay/3", "reject")]
    assert statuses(world) == {1: "retired", 2: "champion", 3: "rejected"}
    live = transitions.live(world.loop.ledger, "delay")
    assert live is not None
    assert (live.version, live.weight, live.stage) == (2, 1.0, 2)
    promoted = decisions.listing(world.loop.ledger, kind="rollout")[0]
    series = promoted.evidence["series"]
    assert [s[1] for s in series] == sorted(s[1] for s in series)
    assert promoted.evidence["bound"] <= promoted.evidence["margin"]
    assert promoted.evidence["n"] >= 100


def test_weights_of_live_and_canary_add_up(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")])
    world.train = ["fair", "good"]
    seen = set()
    for _ in range(14):
        days(world, 1)
        open_ = deployments_of(world.loop.ledger, "delay")
        assert sum(d["weight"] for d in open_) == pytest.approx(1.0)
        seen |= {(d["role"], d["weight"]) for d in open_}
    assert seen == {("live", 1.0), ("shadow", 0.0), ("canary", 0.2), ("live", 0.8), ("canary", 0.5), ("live", 0.5)}


def test_a_model_that_is_wrong_only_online_is_rolled_back_on_what_it_served(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")])
    world.train = ["fair", "good"]
    world.broken_canary = True
    while not decisions.listing(world.loop.ledger, kind="rollback"):
        days(world, 1)
    assert outcomes(world, "rollout")[:3] == [("delay/1", "promote"), ("delay/2", "start"), ("delay/2", "advance")]
    (back,) = decisions.listing(world.loop.ledger, kind="rollback")
    assert (back.subject, back.outcome, back.cause["replaces"]) == ("delay/2", "rollback", 1)
    assert back.evidence["low"] > 0
    assert back.evidence["phase"] == "canary"
    assert statuses(world)[2] == "rolled_back"
    live = transitions.live(world.loop.ledger, "delay")
    assert live is not None
    assert (live.version, live.weight) == (1, 1.0)
    assert world.loop.registry.get("delay", "champion").version == 1


def test_a_candidate_that_does_not_settle_is_given_up(make: Make) -> None:
    world = make(retrain=[on_new_data("5d")], rollout=Rollout(shadow="1d", margin=-0.5, give_up="4d"))
    world.train = ["fair", "good"]
    days(world, 10)
    assert outcomes(world, "rollout")[-1] == ("delay/2", "reject")
    assert "not settled within 4d" in decisions.listing(world.loop.ledger, kind="rollout")[0].evidence["reason"]
    assert statuses(world)[2] == "rejected"


def test_newer_versions_set_older_ones_aside_and_a_new_champion_means_judging_again(make: Make) -> None:
    world = make()
    days(world, 1)
    at = world.clock.now_us()
    for n in (1, 2):
        world.loop.registry.register("delay", "good", run_id=f"by-hand-{n}", metrics={}, meta={}, at_us=at)
    assert [(a.kind, a.version) for a in turn(world)] == [("judge", 3), ("judge", 2), ("supersede", 2), ("start", 3)]
    world.loop.registry.register("delay", "good", run_id="by-hand-3", metrics={}, meta={}, at_us=at)
    assert [(a.kind, a.version) for a in turn(world)] == [("judge", 4)]
    decisions.promote(world.loop, world.service, 3, "ann")
    assert [(a.kind, a.version) for a in turn(world)] == [("judge", 4)]
    again = {d.cause["champion"]: d.outcome for d in decisions.listing(world.loop.ledger, kind="gate") if d.subject == "delay/4"}
    assert again == {1: "promote", 3: "reject"}
    assert turn(world) == []


def test_plan_is_pure_and_empty_when_all_is_well(world: World) -> None:
    world.publish()
    now = world.clock.now_us()
    seen = observe(world.loop, world.service, now)
    assert plan(world.service, seen, now) == plan(world.service, seen, now)
    turn(world)
    assert plan(world.service, observe(world.loop, world.service, now), now) == []


def test_an_alias_that_strayed_is_set_right(world: World) -> None:
    days(world, 1)
    with world.loop.ledger.write() as db:
        db.execute(schema.model_alias.delete())
    assert [a.kind for a in turn(world)] == ["alias"]
    assert world.loop.registry.get("delay", "champion").version == 1


class Killed(BaseException):
    """The process is gone."""


class MortalLedger(Ledger):
    """A ledger whose process dies at its k-th transaction: before the commit, or right behind it."""

    left = 10**9
    before = False

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        self.left -= 1
        with super().write(durable=durable) as db:
            yield db
            if self.left == 0 and self.before:
                raise Killed
        if self.left == 0:
            raise Killed


def state_of(ledger: Ledger) -> dict[str, Any]:
    with ledger.read() as db:
        found = {name: db.execute(sa.select(schema.metadata.tables[name])).mappings().all() for name in TABLES}
    return {name: [{k: v for k, v in row.items() if k != "seq"} for row in rows] for name, rows in found.items()}


def story(world: World, home: Path, count: int) -> list[Path]:
    """Live through `count` days; keep a copy of the files as they were before each turn that did something."""
    kept = []
    for day in range(count):
        world.publish()
        copy = home / f"before-{day}"
        shutil.copytree(world.path, copy)
        if turn(world):
            kept.append(copy)
        world.serve(world.clock.now_us() + DAY_US)
    return kept


@pytest.mark.parametrize("broken", [False, True])
def test_killed_at_any_transaction_and_started_again_the_ledger_ends_the_same(tmp_path: Path, broken: bool) -> None:
    settings: dict[str, Any] = {"retrain": [on_new_data("5d")], "rollout": Rollout(shadow="1d", canary=(0.5,))}
    world = make_world(tmp_path / "world", **settings)
    world.train, world.broken_canary = ["fair", "good"], broken
    copies = story(world, tmp_path, 8 if broken else 10)
    kills = [_kill_everywhere(copy, settings) for copy in (copies[-1:] if broken else copies)]  # until the canary both stories are one
    assert sum(kills) >= (2 if broken else 30)
    ends = {d.outcome for d in decisions.listing(world.loop.ledger) if d.subject == "delay/2" and d.kind != "gate"}
    assert ends == {"start", "advance", "rollback" if broken else "promote"}


def _day(copy: Path) -> int:
    return int(copy.name.removeprefix("before-"))


def _kill_everywhere(copy: Path, settings: dict[str, Any]) -> int:
    """Kill the turn that starts from these files at each of its transactions; return how many times."""
    wanted, transactions = _after_turn(copy, settings, kill_at=0, before=False)
    for number in range(1, transactions + 1):
        for before in (True, False):
            found, _ = _after_turn(copy, settings, kill_at=number, before=before)
            assert found == wanted, f"killed {'before' if before else 'behind'} commit {number} of {copy.name}"
    return 2 * transactions


def _after_turn(copy: Path, settings: dict[str, Any], *, kill_at: int, before: bool) -> tuple[dict[str, Any], int]:
    work = copy.with_name("work")
    shutil.copytree(copy, work)
    try:
        world = make_world(work, **settings)
        world.train = ["fair", "good"]
        world.clock.advance_to(world.clock.now_us() + _day(copy) * DAY_US)
        mortal = MortalLedger(f"sqlite:///{work}/ledger.db")
        mortal.left, mortal.before = kill_at or 10**9, before
        with_ledger(world, mortal)
        if kill_at:
            with pytest.raises(Killed):
                turn(world)
            with_ledger(world, Ledger(f"sqlite:///{work}/ledger.db"))
        turn(world)
        return state_of(world.loop.ledger), 10**9 - mortal.left
    finally:
        world.loop.ledger.close()
        mortal.close()
        shutil.rmtree(work)
