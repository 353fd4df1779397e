"""Shadows in a process of their own: what is handed over, what is dropped, and what becomes of it when the process dies."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from tests.support.serving_kit import FULL, Local, Stack, body, free_port, run, server
from tests.support.waiting import until as wait
from tests.unit.serving.test_serving_process import Load
from tests.unit.serving.test_serving_workers import metric, wait_for

from tidemill.core.errors import UnavailableError
from tidemill.ledger.tallies import Counts
from tidemill.serving.around import AroundLog
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.mirror import Mirror
from tidemill.serving.mirrored import Mirrored, running_ns
from tidemill.serving.ports import Prediction
from tidemill.serving.ring import Ring
from tidemill.serving.sampled import is_kept
from tidemill.serving.score import Lineup, Scorer
from tidemill.serving.shadow import Shadows

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere a thread does it")
SLEEPS = "import sys; sys.stdin.read()"
"""A process that does nothing but end when it should."""


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack.of(tmp_path, live=1, shadow=2)


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring.made(4096, 100)
    yield made
    made.close()


def children(pid: int) -> list[int]:
    """Processes that any thread of the process has started."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


until = partial(wait, seconds=10)


# the ring


def test_frames_come_out_as_they_went_in_however_often_the_memory_is_gone_through(ring: Ring) -> None:
    other, seen = Ring(os.dup(ring.file), ring.size, ring.rows), 0
    for turn in range(500):
        bodies = [bytes([turn % 251, n]) * (1 + 37 * (turn * 7 + n) % 400) for n in range(turn % 4)]
        assert all(ring.put(body, n) for n, body in enumerate(bodies))
        found = list(other.frames())
        assert [body for body, _end, _rows in found] == bodies
        for _body, end, rows in islice(found, turn % 3 + 1):
            other.done(end, rows)
        seen += min(len(found), turn % 3 + 1)
        for _body, end, rows in other.frames():
            other.done(end, rows)
        assert ring.waiting == other.waiting == 0
    assert seen > 500
    other.close()


def test_a_full_ring_takes_nothing_and_keeps_what_it_has(ring: Ring) -> None:
    assert ring.put(b"a" * 3_000, 1)
    assert not ring.put(b"b" * 2_000, 1), "no room"
    assert not ring.put(b"c", 100), "more rows than it takes"
    assert ring.put(b"d", 99)
    assert [body for body, _end, _rows in ring.frames()] == [b"a" * 3_000, b"d"]
    assert ring.waiting == 100


def test_half_a_frame_is_none(ring: Ring) -> None:
    ring.put(b"whole", 1)
    ring.put(b"torn", 1)
    ring._data[16 + 5 + 16] ^= 1
    assert [body for body, _end, _rows in ring.frames()] == [b"whole"]


def test_a_reader_that_gets_no_further_is_counted_and_others_begin_anew(ring: Ring) -> None:
    ring.put(b"x", 3)
    assert [ring.begin() for _ in range(3)] == [1, 2, 3]
    (_body, end, rows), = ring.frames()  # fmt: skip
    ring.done(end, rows)
    assert ring.begin() == 1
    ring.put(b"y", 4)
    assert ring.skip() == 4
    assert (list(ring.frames()), ring.waiting) == ([], 0)


# the process


def mirror(wanted: Callable[[], bool] = lambda: True, code: str = SLEEPS, **more: float) -> Mirror:
    return Mirror("no:target", wanted, command=(sys.executable, "-c", code), **more)  # type: ignore[arg-type]


def answers(local: Local, n: int) -> list[Prediction]:
    values = tuple(FULL[name] for name in local.scorer.plan.columns)
    return local.scorer.respond([{}] * n, [values] * n, [f"id-{i}" for i in range(n)], list(range(n)))


def test_what_does_not_fit_is_dropped_and_counted_at_once_and_nobody_waits(stack: Stack) -> None:
    async def script(local: Local) -> None:
        mirrored = mirror(max_rows=10)
        took = []
        for _ in range(2_000):
            began = time.perf_counter()
            mirrored.submit(local.scorer, local.scorer.lineup, answers(local, 3))
            took.append(time.perf_counter() - began)
        assert mirrored.dropped == 6_000 - 9
        assert sorted(took)[-20] < 0.002

    run(stack, script)


def test_what_cannot_be_encoded_has_failed(stack: Stack) -> None:
    async def script(local: Local) -> None:
        mirrored = mirror()
        (answer,) = answers(local, 1)
        odd = replace(answer, values=(object(),))
        mirrored.submit(local.scorer, local.scorer.lineup, [odd])
        assert (mirrored.failed, mirrored.dropped) == (1, 0)

    run(stack, script)


def test_there_is_a_process_while_it_is_wanted_and_some_time_after() -> None:
    wanted = False
    mirrored = mirror(lambda: wanted, grace_s=0.1)
    mirrored.start()
    time.sleep(0.5)
    assert mirrored.pid is None
    wanted = True
    until("a process", lambda: mirrored.pid is not None)
    wanted = False
    until("none", lambda: mirrored.pid is None)
    assert mirrored.restarts == 0
    mirrored.close()


def test_a_process_that_dies_is_started_again_later_and_later() -> None:
    mirrored = mirror(code="import sys; sys.exit(7)")
    mirrored.start()
    time.sleep(2.5)
    mirrored.close()
    assert 2 <= mirrored.restarts <= 5


def test_the_process_ends_with_the_server() -> None:
    mirrored = mirror()
    mirrored.start()
    until("a process", lambda: mirrored.pid is not None)
    pid = mirrored.pid
    assert pid is not None
    mirrored.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# its work, in this process


@pytest.fixture
def large() -> Iterator[Ring]:
    made = Ring.made(1 << 20, 1_000)
    yield made
    made.close()


def hand_over(local: Local, ring: Ring, *groups: list[Prediction]) -> None:
    mirrored = mirror()
    mirrored._ring = ring
    for group in groups:
        mirrored.submit(local.scorer, local.scorer.lineup, group)
    assert mirrored.dropped == mirrored.failed == 0


def test_what_was_handed_over_is_scored_logged_and_counted_once(stack: Stack, large: Ring) -> None:
    async def script(local: Local) -> None:
        hand_over(local, large, *([a] for a in answers(local, 90)))
        other = Stack(stack.home)
        async with Local(other) as there:
            Mirrored(there.app, large, now_ns=running_ns()).run(lambda _s: True)
            assert there.scorer.tally.changed()["shadow-2"]["shadow"] == Counts(90, 0, 0)
        assert (large.scored, large.failed, large.waiting) == (90, 0, 0)
        kept = list(other.log.read("late", roles=["shadow"]))
        assert Counter(p.id for p in kept) == {f"id-{i}": 1 for i in range(90)}
        assert {(p.version, p.at_us - int(p.id[3:]), p.columns) for p in kept} == {(2, 0, local.scorer.plan.columns)}
        assert {p.score for p in kept} == {p.score for p in local.scorer.compare(answers(local, 1))}

    run(stack, script)


def test_a_version_that_the_process_has_not_seen_yet_is_scored_all_the_same(stack: Stack, large: Ring) -> None:
    stack.add(3)

    async def script(local: Local) -> None:
        async with Local(Stack(stack.home), poll_s=60) as there:
            work = Mirrored(there.app, large)
            hand_over(local, large, answers(local, 1))
            assert work.turn()
            stack.deploy(live=1, shadow=3)
            local.scorer.refresh()
            hand_over(local, large, answers(local, 2)[1:])
            assert work.turn()
        kept = {(p.id, p.version) for p in stack.log.read("late", roles=["shadow"])}
        assert kept == {("id-0", 2), ("id-1", 3)}

    run(stack, script)


def test_degraded_answers_stay_degraded(stack: Stack, large: Ring) -> None:
    async def script(local: Local) -> None:
        (answer,) = answers(local, 1)
        hand_over(local, large, [replace(answer, degraded="default")])
        async with Local(Stack(stack.home)) as there:
            assert Mirrored(there.app, large).turn()
        assert [p.degraded for p in stack.log.read("late", roles=["shadow"])] == ["default"]

    run(stack, script)


def test_scores_that_cannot_be_logged_are_made_again(stack: Stack, large: Ring) -> None:
    full = [True]

    class Full(AroundLog):
        def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
            if full[0]:
                raise UnavailableError("the disk is full")
            super().append(predictions, durable=durable)

    async def script(local: Local) -> None:
        hand_over(local, large, answers(local, 5))
        there = Stack(stack.home, log=Full(stack.log))
        async with Local(there) as other:
            work = Mirrored(other.app, large)
            assert not work.turn()
            assert (large.waiting, large.scored) == (5, 0)
            full[0] = False
            assert work.turn()
            assert (large.waiting, large.scored) == (0, 5)
        assert len(list(stack.log.read("late", roles=["shadow"]))) == 5

    run(stack, script)


def test_what_nobody_can_score_has_failed_and_keeps_nobody_up(stack: Stack, large: Ring) -> None:
    async def script(local: Local) -> None:
        hand_over(local, large, answers(local, 2), answers(local, 3))
        gone = Stack(stack.home)
        async with Local(gone) as there:
            there.app.endpoints.clear()
            assert Mirrored(there.app, large).turn()
        assert (large.failed, large.waiting) == (5, 0)

    run(stack, script)


def test_rows_at_which_the_process_died_again_and_again_are_passed_over(stack: Stack, large: Ring) -> None:
    async def script(local: Local) -> None:
        hand_over(local, large, answers(local, 4))
        for _ in range(3):
            large.begin()
        async with Local(Stack(stack.home)) as there:
            Mirrored(there.app, large).run(lambda _s: True)
        assert (large.failed, large.scored, large.waiting) == (4, 0, 0)

    run(stack, script)


def test_only_what_the_log_keeps_is_handed_over(stack: Stack) -> None:
    async def script(local: Local) -> set[str]:
        got: list[str] = []

        class Heard(Shadows):
            def submit(self, scorer: Scorer, lineup: Lineup, answers: Sequence[Prediction]) -> None:
                got.extend(a.id for a in answers)

        for endpoint in local.app.endpoints.values():
            endpoint.shadows = Heard(local.app.writers[0])
        for i in range(60):
            assert (await local.infer(body(FULL, id=f"r{i}"))).status == 200
        await asyncio.sleep(0)
        return set(got)

    kept = {f"r{i}" for i in range(60) if is_kept(f"r{i}", 0.3)}
    assert 0 < len(kept) < 60
    assert run(stack, script, log_share=0.3) == kept


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="this system does not tell")
def test_the_clock_of_latencies_stands_still_while_the_processor_is_somebody_elses() -> None:
    now, was = running_ns(), os.sched_getaffinity(0)
    one = min(was)
    spin = [subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{one}}})\nwhile True: pass"]) for _ in range(3)]
    try:
        os.sched_setaffinity(0, {one})
        time.sleep(1)
        ran, wall, cpu = now(), time.perf_counter_ns(), time.thread_time_ns()
        while time.thread_time_ns() - cpu < 200_000_000:
            pass
        ran, wall = now() - ran, time.perf_counter_ns() - wall
    finally:
        os.sched_setaffinity(0, was)
        for process in spin:
            process.kill()
            process.wait()
    assert wall > 1.5 * ran
    assert 180_000_000 < ran < 300_000_000


# the whole

proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in proc(5)")


@proc
def test_a_killed_process_fails_no_answer_comes_back_and_every_answer_gets_its_shadow_once(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("load", "admin")
    with server(stack.home, port) as process:
        with Load(port, secret, clients=4) as load:
            wait_for("the process", lambda: len(children(process.pid)) == 1 and metric(port, secret, "shadow_scored_total") > 0)
            first = children(process.pid)[0]
            if sys.platform == "linux":
                wait_for("its class", lambda: os.sched_getscheduler(first) == os.SCHED_IDLE)
            os.kill(first, signal.SIGKILL)
            wait_for("another one", lambda: children(process.pid) not in ([], [first]))
            before = metric(port, secret, "shadow_scored_total")
            wait_for("scores by it", lambda: metric(port, secret, "shadow_scored_total") > before)
        assert load.failures == []
        assert all(logged is True for _, _, logged in load.answers)
        second = children(process.pid)[0]
        assert metric(port, secret, "shadow_restarts_total") == 1
        dropped = metric(port, secret, "shadow_dropped_total")
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        assert not Path(f"/proc/{second}/cmdline").exists()
    log = SqlitePredictionLog(stack.home / "predictions.db")
    asked = {name: 1 for name, _, _ in load.answers}
    assert Counter(p.id for p in log.read("late", roles=["live"])) == asked
    shadows = Counter(p.id for p in log.read("late", roles=["shadow"]))
    assert set(shadows.values()) == {1}
    assert shadows.keys() <= asked.keys()
    assert len(shadows) == len(asked) - dropped
    assert dropped <= len(asked) / 2


@proc
def test_the_process_ends_when_the_server_is_killed_and_first_scores_what_it_has(stack: Stack) -> None:
    port, secret = free_port(), stack.tokens.make("load", "admin")
    headers = {"authorization": f"Bearer {secret}"}
    with server(stack.home, port) as process:
        for i in range(20):
            httpx.post(f"http://127.0.0.1:{port}/v2/models/late/infer", content=body(FULL, id=f"k{i}"), headers=headers, timeout=20)
        wait_for("the process", lambda: len(children(process.pid)) == 1)
        pid = children(process.pid)[0]
        process.kill()
        process.wait()
        wait_for("its end", lambda: not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    shadows = Counter(p.id for p in SqlitePredictionLog(stack.home / "predictions.db").read("late", roles=["shadow"]))
    assert shadows == {f"k{i}": 1 for i in range(20)}
