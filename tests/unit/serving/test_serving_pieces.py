"""What is scored together and where: little in the event loop, the rest in threads, in pieces."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LOOKUP, Local, Stack, body, run

from tidemill.core.machine import processors
from tidemill.serving.admission import OverloadedError
from tidemill.serving.endpoint import at_once


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack.of(tmp_path, live=1)


class Watched:
    """A model that tells before it answers."""

    def __init__(self, inner: Any, tell: Callable[[int], None]) -> None:
        self.features, self.texts, self.apart, self._inner, self._tell = inner.features, inner.texts, False, inner, tell

    def predict(self, rows: Sequence[Sequence[Any]]) -> Any:
        self._tell(len(rows))
        return self._inner.predict(rows)


def watch(local: Local, tell: Callable[[int], None]) -> None:
    """Have the live model tell how many rows it is asked for."""
    lineup = local.scorer.lineup
    live = lineup.deployments[0]
    assert live.role == "live"
    lineup.models[live.digest] = Watched(lineup.models[live.digest], tell)  # type: ignore[index]


def test_what_meets_is_scored_in_pieces(stack: Stack) -> None:
    sizes: list[int] = []

    async def script(local: Local) -> list[Any]:
        watch(local, sizes.append)
        calls = [*(body(FULL, 64) for _ in range(20)), *(body(FULL) for _ in range(100)), body(FULL, 400)]
        return list(await asyncio.gather(*map(local.infer, calls)))

    replies = run(stack, script)
    assert [r.status for r in replies] == [200] * 121
    rows = [r.json()["outputs"][0]["shape"][0] for r in replies]
    assert rows == [*[64] * 20, *[1] * 100, 400]
    assert sum(sizes) == 20 * 64 + 100 + 400
    assert max(sizes) == 400, "a call is not divided"
    assert sorted(sizes)[-2] <= 256
    assert len(sizes) < 121, "calls that meet are scored together"
    assert len(list(stack.log.read("late", roles=["live"]))) == sum(sizes)


@pytest.mark.parametrize(("cores", "pieces"), [(1, 1), (2, 1), (3, 2), (64, 2)])
def test_a_processor_is_left_for_the_event_loop(cores: int, pieces: int) -> None:
    assert at_once(cores) == pieces


@pytest.mark.parametrize(("values", "pressed", "most"), [(FULL, False, 2), (FULL, True, at_once(processors())), (LOOKUP, True, 2)])
def test_a_slow_model_leaves_the_loop_alone_a_few_pieces_at_a_time(stack: Stack, values: dict[str, Any], pressed: bool, most: int) -> None:
    where: list[bool] = []
    now, seen, lock = 0, 0, threading.Lock()

    def slow(_rows: int) -> None:
        nonlocal now, seen
        with lock:
            where.append(threading.current_thread() is threading.main_thread())
            now += 1
            seen = max(seen, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    async def script(local: Local) -> list[int]:
        watch(local, slow)
        if pressed:
            local.app.endpoints["late"].pressure._until = float("inf")
        first = [(await local.infer(body(FULL))).status]
        later = await asyncio.gather(*(local.infer(body(values, 30)) for _ in range(12)))
        return first + [r.status for r in later]

    assert run(stack, script) == [200] * 13
    assert where[0]
    assert not any(where[1:])
    assert seen == most


def test_a_refusal_is_pressure(stack: Stack) -> None:
    async def script(local: Local) -> list[bool]:
        pressure = local.app.endpoints["late"].pressure
        found = [pressure.high]
        local.app.in_flight = 5
        with pytest.raises(OverloadedError):
            local.app.admit()
        local.app.in_flight = 0
        return [*found, pressure.high]

    assert run(stack, script, max_in_flight=5 - 1) == [False, True]
