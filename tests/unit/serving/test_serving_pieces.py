"""What is scored together and where: little in the event loop, the rest in threads, in pieces."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, Local, Stack, body, run


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


def test_a_slow_model_leaves_the_loop_alone_two_pieces_at_a_time(stack: Stack) -> None:
    where: list[bool] = []
    at_once, most, lock = 0, 0, threading.Lock()

    def slow(_rows: int) -> None:
        nonlocal at_once, most
        with lock:
            where.append(threading.current_thread() is threading.main_thread())
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1

    async def script(local: Local) -> list[int]:
        watch(local, slow)
        first = [(await local.infer(body(FULL))).status]
        later = await asyncio.gather(*(local.infer(body(FULL, 30)) for _ in range(12)))
        return first + [r.status for r in later]

    assert run(stack, script) == [200] * 13
    assert where[0]
    assert not any(where[1:])
    assert most == 2
