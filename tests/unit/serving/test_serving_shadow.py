"""Shadows work in turns: what was answered meanwhile is scored and logged together, and counts as what it was."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, Local, Stack, body, run

from tidemill.ledger.tallies import Counts
from tidemill.serving.around import AroundLog
from tidemill.serving.ports import Prediction, PredictionLog


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack.of(tmp_path, live=1, shadow=2)


class Watched:
    """A model that tells what it is asked before it answers."""

    def __init__(self, inner: Any, tell: Callable[[Sequence[Sequence[Any]]], None]) -> None:
        self.features, self.texts, self.apart, self._inner, self._tell = inner.features, inner.texts, False, inner, tell

    def predict(self, rows: Sequence[Sequence[Any]]) -> Any:
        self._tell(rows)
        return self._inner.predict(rows)


def shadowed(stack: Stack, tell: Callable[[Sequence[Sequence[Any]]], None], *winds: float) -> tuple[int, Counts]:
    """Ask one request after the other while the shadow's model tells; how many shadows failed, and what was counted of them."""

    async def script(local: Local) -> tuple[int, Counts]:
        lineup = local.scorer.lineup
        shadow = next(d for d in lineup.deployments if d.role == "shadow")
        lineup.models[shadow.digest] = Watched(lineup.models[shadow.digest], tell)  # type: ignore[index]
        replies = [await local.infer(body({**FULL, "sky__wind": wind})) for wind in winds]
        assert [r.status for r in replies] == [200] * len(winds)
        (shadows,) = local.app.shadows.values()
        for _ in range(1_000):
            if shadows.scored + shadows.failed == len(winds):
                break
            await asyncio.sleep(0.01)
        return shadows.failed, local.scorer.tally.changed()[shadow.id]["shadow"]

    return run(stack, script)  # type: ignore[no-any-return]


def test_what_was_answered_meanwhile_is_scored_together_and_counts_as_calls(stack: Stack) -> None:
    sizes: list[int] = []
    assert shadowed(stack, lambda rows: sizes.append(len(rows)), *map(float, range(80))) == (0, Counts(80, 0, 0))
    assert sum(sizes) == 80
    assert len(sizes) < 60
    assert {p.values[0] for p in stack.log.read("late", roles=["shadow"])} == set(map(float, range(80)))


def test_a_failure_counts_once_and_takes_no_other_along(stack: Stack) -> None:
    def fail(rows: Sequence[Sequence[Any]]) -> None:
        if any(row[0] == 13.0 for row in rows):
            raise RuntimeError("thirteen")

    assert shadowed(stack, fail, *map(float, range(80))) == (1, Counts(80, 1, 0))
    assert {p.values[0] for p in stack.log.read("late", roles=["shadow"])} == set(map(float, range(80))) - {13.0}


def test_a_slow_model_scores_what_was_answered_together_and_no_more(stack: Stack) -> None:
    sizes: list[int] = []

    def slow(rows: Sequence[Sequence[Any]]) -> None:
        sizes.append(len(rows))
        time.sleep(0.002)

    assert shadowed(stack, slow, *map(float, range(30))) == (0, Counts(30, 0, 0))
    assert sizes == [1] * 30


class Counted(AroundLog):
    """A log that knows how often it is asked to take shadows."""

    def __init__(self, log: PredictionLog) -> None:
        super().__init__(log)
        self.times = 0

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        self.times += any(p.role == "shadow" for p in predictions)
        super().append(predictions, durable=durable)


def test_shadows_are_logged_together_each_with_its_own_score(stack: Stack) -> None:
    log = stack.log = Counted(stack.log)

    async def script(local: Local) -> None:
        for _ in range(40):
            await asyncio.gather(*(local.infer(body(FULL)) for _ in range(3)))

    run(stack, script)
    shadows = list(log.read("late", roles=["shadow"]))
    assert len(shadows) == 120
    assert {p.id for p in shadows} == {p.id for p in log.read("late", roles=["live"])}
    assert log.times <= 20
