"""Shadows work in turns: scored one after the other, logged together."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.serving_kit import FULL, Local, Stack, body, run

from tidemill.serving.around import AroundLog
from tidemill.serving.ports import Prediction, PredictionLog


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack.of(tmp_path, live=1, shadow=2)


class Counted(AroundLog):
    """A log that knows how often it is asked to take shadows."""

    def __init__(self, log: PredictionLog) -> None:
        super().__init__(log)
        self.times = 0

    def append(self, predictions: Sequence[Prediction]) -> None:
        self.times += any(p.role == "shadow" for p in predictions)
        super().append(predictions)


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
