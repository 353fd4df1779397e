"""What a rollout means for a request: sticky by entity, a canary's failure is the live version's answer, and all of it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LATE, LOOKUP, Local, Stack, body

from tidemill.core.definitions import Rollout
from tidemill.core.errors import InvalidError
from tidemill.ledger import tallies
from tidemill.ledger.tallies import Counts
from tidemill.serving import Scorer
from tidemill.serving.http import Settings
from tidemill.serving.ports import Prediction
from tidemill.serving.server import build_app
from tidemill.serving.sticky import keys_of
from tidemill.serving.tally import Tally


def stack_of(path: Path, rollout: Rollout) -> Stack:
    made = Stack(path, replace(LATE, rollout=rollout))
    for version in (1, 2, 3):
        made.add(version)
    return made


def answer(scorer: Scorer, requests: Sequence[dict[str, Any]], start: int = 0) -> list[Prediction]:
    ids, at_us = [f"r{start + i}" for i in range(len(requests))], [0] * len(requests)
    return scorer.answer(requests, scorer.plan.inputs(requests, at_us), ids, at_us)


AIRPORTS = [f"A{i}" for i in range(60)]


def by_airport(scorer: Scorer, start: int) -> dict[str, set[int]]:
    requests: list[dict[str, Any]] = [{**LOOKUP, "origin": origin} for origin in AIRPORTS for _ in range(5)]
    found: dict[str, set[int]] = {}
    for request, got in zip(requests, answer(scorer, requests, start), strict=True):
        found.setdefault(request["origin"], set()).add(got.version)
    return found


def test_an_entity_is_always_answered_by_the_same_version_and_never_moved_back(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, Rollout(sticky="origin"))
    scorer = stack.scorer()
    had: set[str] = set()
    for stage, weight in enumerate((0.1, 0.3, 0.6)):
        stack.deploy(live=1, canary=(2, weight))
        scorer.refresh()
        found = by_airport(scorer, 1000 * stage)
        assert all(len(versions) == 1 for versions in found.values())
        canary = {origin for origin, versions in found.items() if versions == {2}}
        assert had <= canary
        assert abs(len(canary) / len(AIRPORTS) - weight) < 0.2
        had = canary


def test_without_sticky_the_id_decides(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, Rollout())
    stack.deploy(live=1, canary=(2, 0.5))
    scorer = stack.scorer()
    scorer.refresh()
    assert any(len(versions) == 2 for versions in by_airport(scorer, 0).values())


def test_a_request_that_does_not_name_its_entity_is_refused_with_or_without_a_canary(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, Rollout(sticky="origin"))
    stack.deploy(live=1)
    scorer = stack.scorer()
    scorer.refresh()
    with pytest.raises(InvalidError, match="lacks 'origin', which decides which version answers"):
        answer(scorer, [FULL])
    assert answer(scorer, [{**FULL, "origin": "JFK"}])[0].version == 1


def test_a_service_is_not_sticky_by_what_requests_do_not_have() -> None:
    with pytest.raises(InvalidError, match="cannot be sticky by 'customer'"):
        replace(LATE, rollout=Rollout(sticky="customer"))
    replace(LATE, rollout=Rollout(sticky="flight"))


def test_equal_entities_have_equal_keys_and_null_is_none() -> None:
    requests: list[dict[str, Any]] = [{"c": 7}, {"c": 7.0}, {"c": "7"}, {"c": None}, {"c": 7.5}]
    assert keys_of("c", list("abcde"), requests, [()] * 5, ()) == ["c=7", "c=7", "c=7", "d", "c=7.5"]
    assert keys_of("c", ["a"], [{}], [(3.0, 1.0)], ("x", "c")) == ["c=1"]


class Broken:
    """A model that raises, or answers with what is no number."""

    def __init__(self, inner: Any, scores: list[float] | None) -> None:
        self.features, self.texts, self._scores = inner.features, inner.texts, scores

    def predict(self, rows: Sequence[Sequence[Any]]) -> Any:
        import numpy as np

        if self._scores is None:
            raise RuntimeError("the canary's model is broken")
        return np.array(self._scores * len(rows))


def break_(scorer: Scorer, version: int, scores: list[float] | None) -> None:
    lineup = scorer.lineup
    digest = next(d.digest for d in lineup.deployments if d.version == version)
    lineup.models[digest] = Broken(lineup.models[digest], scores)  # type: ignore[index]


@pytest.mark.parametrize("scores", [None, [float("nan")]])
def test_what_a_canary_cannot_answer_the_live_version_answers(tmp_path: Path, scores: list[float] | None) -> None:
    stack = stack_of(tmp_path, Rollout())
    stack.deploy(live=1, canary=(2, 1.0))
    scorer = stack.scorer()
    scorer.refresh()
    break_(scorer, 2, scores)
    got = [scorer.respond([FULL], scorer.plan.inputs([FULL], [0]), [f"r{i}"], [0])[0] for i in range(3)]
    assert [(p.version, p.role) for p in got] == [(1, "live")] * 3
    assert scorer.tally.changed()["canary-2"]["canary"] == Counts(3, 3, 0)
    assert scorer.tally.changed() == {}


def test_a_shadow_that_fails_leaves_the_other_shadows_alone_and_is_counted(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, Rollout())
    stack.deploy(live=1, shadow=2, warm=3)
    scorer = stack.scorer()
    scorer.refresh()
    break_(scorer, 2, None)
    answers = scorer.respond([FULL], scorer.plan.inputs([FULL], [0]), ["r"], [0])
    assert [(p.version, p.role) for p in scorer.compare(answers)] == [(3, "shadow")]
    counted = scorer.tally.changed()
    assert (counted["shadow-2"]["shadow"], counted["warm-3"]["shadow"]) == (Counts(1, 1, 0), Counts(1, 0, 0))


def test_what_is_warm_answers_nobody_and_is_loaded_and_compared(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, Rollout(kind="blue_green"))
    stack.deploy(live=2, warm=1)
    scorer = stack.scorer()
    scorer.refresh()
    model = scorer.lineup.models[next(d.digest for d in scorer.lineup.deployments if d.version == 1)]
    answer(scorer, [FULL] * 20)
    assert {(p.version, p.role) for p in stack.log.read("late")} == {(2, "live"), (1, "shadow")}
    stack.deploy(live=1)
    scorer.refresh()
    assert scorer.lineup.models[scorer.lineup.deployments[0].digest] is model, "going back loads nothing"


def test_slow_calls_are_told_from_quick_ones() -> None:
    tally = Tally(slow_us=1000)
    for latency in (10, 1000, 1001):
        tally.answered("d", "canary", latency)
    assert tally.changed() == {"d": {"canary": Counts(3, 0, 1)}}
    never = Tally()
    never.answered("d", "canary", 10**9)
    assert never.changed() == {"d": {"canary": Counts(1, 0, 0)}}


def test_a_server_states_its_counts_and_states_them_again_when_the_ledger_was_gone(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, Rollout())
    stack.deploy(live=1, canary=(2, 1.0))
    failures = [OSError("no ledger")]

    def report(counted: Any) -> None:
        if failures:
            raise failures.pop()
        with stack.ledger.write() as db:
            tallies.state(db, "server-1", counted, at_us=1)

    async def script() -> None:
        local = Local(stack)
        local.app = build_app({"late": local.scorer}, None, clock=stack.clock, report=report, settings=Settings(poll_s=0.01))
        async with local:
            for _ in range(4):
                assert (await local.infer(body(FULL))).status == 200
            for _ in range(500):
                await asyncio.sleep(0.01)
                with stack.ledger.read() as db:
                    if tallies.read(db, "canary-2") == {"canary": Counts(4, 0, 0)} and not failures:
                        return
            raise AssertionError("never stated")

    asyncio.run(script())


def test_counts_of_several_processes_add_up(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, Rollout())
    with stack.ledger.write() as db:
        for process, n in (("a", 3), ("b", 4), ("a", 5)):
            tallies.state(db, process, {"d_1": {"canary": Counts(n, 1, 0)}}, at_us=1)
        tallies.state(db, "a", {"dx1": {"canary": Counts(99, 9, 9)}}, at_us=1)
        assert tallies.read(db, "d_1") == {"canary": Counts(9, 2, 0)}
        tallies.forget(db, "d_1")
        assert tallies.read(db, "d_1") == {}
        assert tallies.read(db, "dx1") != {}
