"""What a server has to do without: it goes on as declared, says so everywhere, and is as before once that is back."""

import asyncio
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.support.serving_kit import FULL, LATE, LOOKUP, SKY, Local, Stack, body, run
from tests.unit.ledger.test_ledger_gone import cut
from tests.unit.serving.test_serving_degraded import until

from tidemill.core.clock import ReplayClock
from tidemill.core.conditions import Condition
from tidemill.core.definitions import Definitions
from tidemill.core.errors import LedgerGoneError
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.ledger import conditions
from tidemill.serving import DegradedReader, watch
from tidemill.serving.conditions import Conditions
from tidemill.serving.embedded import SqlitePredictionLog

OFTEN = {"poll_s": 0.02}


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, while the server goes on."""
    await asyncio.get_running_loop().run_in_executor(None, until, condition)


def causes(local: Local) -> set[str]:
    return {c.cause for c in local.app.conditions.current()}


async def seen(local: Local, **headers: Any) -> dict[str, Any]:
    """What the server says of itself, in all its places."""
    health = (await local.ask("GET", "/v2/health")).json()
    ready = await local.ask("GET", "/v2/health/ready")
    metrics = await local.ask("GET", "/metrics", **headers)
    lines = [line for line in metrics.answer.decode().splitlines() if line.startswith("tidemill_degraded{")]
    gauge = {line.split('cause="')[1].split('"')[0]: int(line.rsplit(" ", 1)[1]) for line in lines}
    return {
        "ready": ready.status, "header": dict(ready.headers).get("tidemill-degraded"), "gauge": {c for c, n in gauge.items() if n},
        "state": health["services"]["late"]["state"], "health": {c["cause"]: c for c in health["conditions"]}, "metrics": metrics.status,
    }  # fmt: skip


def fine(told: dict[str, Any]) -> bool:
    return told == {"ready": 200, "header": None, "gauge": set(), "state": "serving", "health": {}, "metrics": 200}


def moved(path: Path) -> Callable[[], object]:
    aside = path.rename(path.with_name("elsewhere"))
    return lambda: aside.rename(path)


@pytest.mark.parametrize("how", ["moved", "cut"])
def test_the_ledger_goes_and_comes_back_under_requests(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    stack = Stack.of(tmp_path, live=1)
    stack.add(2)
    known, other = stack.tokens.make("known", "admin"), stack.tokens.make("other", "admin")
    me, stranger = ({"authorization": f"Bearer {secret}"} for secret in (known, "tm_" + "x" * 43))

    async def script(local: Local) -> None:
        assert (await local.infer(body(FULL), **me)).status == 200
        assert fine(await seen(local, **me))
        path = tmp_path / "ledger.db"
        back = moved(path) if how == "moved" else cut(path, 0)
        await soon(lambda: causes(local) == {"ledger"})
        for _ in range(20):
            stack.clock.advance_to(stack.clock.now_us() + 1_000_000)  # past the age of what is known about tokens
            answer = await local.infer(body(FULL), **me)
            assert (answer.status, answer.json()["parameters"]["logged"]) == (200, True)
        # one whose token was made, and was never used here, is known from the copy; one that is not in it might have been made since
        assert (await local.infer(body(FULL), authorization=f"Bearer {other}")).status == 200
        refused = await local.infer(body(FULL), **stranger)
        assert refused.status == 503
        assert "ledger does not answer" in refused.json()["error"]
        assert dict(refused.headers)["retry-after"] == "1"
        told = await seen(local, **me)
        assert (told["ready"], told["header"], told["gauge"], told["state"]) == (200, "late=ledger", {"ledger"}, "degraded")
        assert "answers go on with version 1" in told["health"]["ledger"]["means"]
        assert "put it back" in told["health"]["ledger"]["reason"]
        back()
        stack.deploy(live=2)
        await soon(lambda: not causes(local) and local.scorer.lineup.live is not None and local.scorer.lineup.live.version == 2)
        assert fine(await seen(local, **me))
        await asyncio.sleep(0.6)
        assert (await local.infer(body(FULL), **stranger)).status == 401
        assert (await local.infer(body(FULL), **me)).json()["model_version"] == "2"

    with caplog.at_level(logging.INFO):
        run(stack, script, token=True, **OFTEN)
    changes = [(r.message, r.__dict__["cause"]) for r in caplog.records if r.message.startswith("serving.")]
    assert changes == [("serving.degraded", "ledger"), ("serving.recovered", "ledger")], "a line a change, not a request or a look"
    assert len(list(stack.log.read("late"))) == 23, "nothing that was acknowledged is lost"


@contextmanager
def turn_taken(home: Path) -> Iterator[None]:
    """Another process has the turn to write, and does nothing with it."""
    code = f"import fcntl, sys; f = open({str(home / 'ledger.db-queue')!r}, 'r+b'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        holder.communicate()


def test_a_ledger_that_hangs_is_noticed_and_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LATE_S", 0.2)
    stack = Stack.of(tmp_path, live=1, shadow=2)
    me = {"authorization": f"Bearer {stack.tokens.make('known', 'admin')}"}
    reports: list[Any] = []

    def report(counted: Any) -> None:
        with stack.ledger.write(durable=False):
            reports.append(counted)

    async def script(local: Local) -> None:
        assert (await local.infer(body(FULL), **me)).status == 200
        await soon(lambda: bool(reports))
        with turn_taken(tmp_path):
            assert (await local.infer(body(FULL), **me)).status == 200
            await soon(lambda: causes(local) == {"ledger"})
            stack.clock.advance_to(stack.clock.now_us() + 10_000_000)
            assert (await local.infer(body(FULL), **me)).status == 200
            told = await seen(local, **me)
            assert "has not answered for more than" in told["health"]["ledger"]["reason"]
        await soon(lambda: not causes(local))
        assert len(reports) >= 2

    run(stack, script, token=True, hooks={"report": report}, **OFTEN)


def test_tokens_are_asked_of_a_ledger_that_hangs_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.serving.tokens._PATIENCE_S", 0.1)
    stack = Stack.of(tmp_path, live=1)
    secret = stack.tokens.make("known", "admin")
    assert stack.tokens.verify(secret) is not None
    read, started, release = stack.ledger.read, list[int](), threading.Event()

    @contextmanager
    def slow() -> Iterator[Any]:
        started.append(1)
        release.wait(30)
        with read() as db:
            yield db

    monkeypatch.setattr(stack.ledger, "read", slow)
    stack.clock.advance_to(stack.clock.now_us() + 10_000_000)
    assert stack.tokens.verify(secret) is not None, "who was known is known"
    for _ in range(5):
        with pytest.raises(LedgerGoneError, match="no answer within"):
            stack.tokens.verify("tm_unknown")
    assert len(started) == 1, "one question at a time"
    release.set()
    until(lambda: stack.tokens._gone is None)
    assert stack.tokens.verify("tm_unknown") is None


def test_the_prediction_log_s_disk_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        stack = Stack(tmp_path, log=SqlitePredictionLog(disk / "predictions.db", ahead=True))
        stack.add(1)
        stack.deploy(live=1)
        names: dict[Any, list[str]] = {True: [], "degraded": []}

        async def script(local: Local) -> None:
            async def ask(n: int) -> Any:
                answer = (await local.infer(body(FULL, id=f"p{n}"))).json()
                names[answer["parameters"]["logged"]].append(answer["id"])
                return answer["parameters"]["logged"]

            assert await ask(0) is True
            (disk / "filler").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
            n = 1
            while await ask(n) is True:  # what is left of the last page
                n += 1
            told = await seen(local)
            assert (told["ready"], told["header"], told["gauge"]) == (200, "late=prediction_log", {"prediction_log"})
            assert "No space left" in told["health"]["prediction_log"]["reason"]
            assert "logged: degraded" in told["health"]["prediction_log"]["means"]
            (disk / "filler").unlink()
            await soon(lambda: not causes(local))
            assert fine(await seen(local))
            assert await ask(n + 1) is True

        run(stack, script, **OFTEN)
        kept = [p.id for p in SqlitePredictionLog(disk / "predictions.db").read("late")]
        assert sorted(kept) == sorted(names[True] + names["degraded"]), "also what waited in memory, once"
        assert names["degraded"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("mode", ["fail", "default", "last_known"])
@pytest.mark.parametrize("how", ["moved", "cut"])
def test_the_online_store_goes_and_comes_back(tmp_path: Path, mode: Any, how: str) -> None:
    stack, path = Stack(tmp_path, replace(LATE, degraded=mode)), tmp_path / "online.db"
    at = stack.clock.now_us() - 1
    when = pa.array([at], pa.int64()).cast(pa.timestamp("us", "UTC"))
    rows = {"origin": ["JFK"], "wind": [3.0], "cover": ["cloudy"], "observed_at": when, "published_at": when}
    definitions = Definitions(views={"sky": SKY})
    with closing(SqliteOnlineStore(path)) as online:
        processor = ViewProcessor(online, definitions)
        processor.push("weather", pa.table(rows))
        processor.commit()
    guarded = DegradedReader(stack.service, OnlineReader(SqliteOnlineStore(path), definitions), retry_s=0.02)
    stack.processor = guarded  # type: ignore[assignment]
    stack.add(1)
    stack.deploy(live=1)

    async def script(local: Local) -> None:
        async def ask() -> tuple[int, Any]:
            reply = await local.infer(body(LOOKUP))
            return reply.status, reply.json().get("parameters", {}).get("degraded")

        assert await ask() == (200, None)
        assert fine(await seen(local))
        back = moved(path) if how == "moved" else cut(path, 100)
        expected = (503, None) if mode == "fail" else (200, mode)
        assert [await ask() for _ in range(5)] == [expected] * 5
        assert (await local.infer(body(FULL))).status == 200
        told = await seen(local)
        assert (told["ready"], told["header"], told["gauge"]) == (200, "late=online_store", {"online_store"})
        assert {"fail": "503", "default": "declared defaults", "last_known": "at most 15m ago"}[mode] in told["health"]["online_store"][
            "means"
        ]
        back()
        await soon(lambda: not causes(local))  # no request comes meanwhile
        assert await ask() == (200, None)
        assert fine(await seen(local))

    run(stack, script, **OFTEN)
    guarded.close()


def test_a_version_that_cannot_be_loaded_and_then_one_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.serving.score.RETRY_S", 0.05)
    stack = Stack.of(tmp_path, live=1)
    digest = stack.add(2)
    stack.add(3)
    damaged = max((p for p in (tmp_path / "blobs" / digest[7:9] / digest[7:]).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole = damaged.read_bytes()

    def damage(content: bytes) -> None:
        damaged.chmod(0o644)
        damaged.write_bytes(content)

    async def script(local: Local) -> None:
        async def told(role: str) -> None:
            await soon(lambda: causes(local) == {"model"})
            said = await seen(local)
            assert (said["ready"], said["header"], said["state"], said["gauge"]) == (200, "late=model", "degraded", {"model"})
            assert "digest" in said["health"]["model"]["reason"], role
            assert "answers go on with version 1" in said["health"]["model"]["means"]
            assert (await local.infer(body(FULL))).json()["model_version"] == "1"

        damage(b"damaged" + whole[7:])
        stack.deploy(live=1, canary=(2, 0.5))
        await told("canary")
        damage(whole)
        await soon(lambda: not causes(local))  # nobody deployed anything: it was tried again
        assert len(local.scorer.lineup.deployments) == 2
        damage(b"damaged" + whole[7:])
        stack.deploy(live=1)
        await soon(lambda: len(local.scorer.lineup.deployments) == 1)
        stack.deploy(live=2)
        await told("live")
        stack.deploy(live=3)
        await soon(lambda: not causes(local))
        assert fine(await seen(local))
        assert (await local.infer(body(FULL))).json()["model_version"] == "3"

    run(stack, script, **OFTEN)


@pytest.mark.parametrize(("service", "says"), [(LATE, "deploy VERSION --now"), (replace(LATE, pipeline=print), "tidemill train")])
def test_a_service_without_a_model_is_new_and_not_degraded(tmp_path: Path, service: Any, says: str) -> None:
    stack = Stack(tmp_path, service)

    async def script(local: Local) -> None:
        told = await seen(local)
        assert told["state"].startswith("no model yet")
        assert says in told["state"]
        assert (told["ready"], told["header"], told["health"], told["gauge"]) == (503, None, {}, set())
        stack.add(1)
        stack.deploy(live=1)
        await soon(lambda: local.scorer.lineup.live is not None)
        assert fine(await seen(local))

    run(stack, script, **OFTEN)


def test_what_is_gone_is_told_the_ledger_until_it_is_back(tmp_path: Path) -> None:
    stack = Stack.of(tmp_path, live=1)

    def tell(current: Any) -> None:
        with stack.ledger.write(durable=False) as db:
            conditions.state(db, "me", current, at_us=stack.clock.now_us())

    def kept(after_us: int = 0) -> list[tuple[str, str]]:
        with stack.ledger.read() as db:
            return [(c.service, c.cause) for c in conditions.current(db, stack.clock.now_us() + after_us)]

    async def script(local: Local) -> None:
        local.app.conditions.state("late", "online_store", "gone", "answers go on")
        await soon(lambda: kept() == [("late", "online_store")])
        assert kept(conditions.FRESH_US) == [("late", "online_store")]
        assert kept(conditions.FRESH_US + 1) == [], "whoever said so does not say it any more"
        local.app.conditions.state("late", "online_store", "")
        await soon(lambda: kept() == [])
        local.app.conditions.state("late", "online_store", "gone", "answers go on")
        await soon(lambda: kept() == [("late", "online_store")])

    run(stack, script, hooks={"tell": tell}, **OFTEN)
    assert kept() == [], "a server that ends takes its conditions along"


def test_since_is_kept_and_the_last_error_is_told(caplog: pytest.LogCaptureFixture) -> None:
    clock = ReplayClock(1_000_000)
    found = Conditions(clock)
    found.state("a", "model", "")
    found.state("a", "model", "first", "means")
    clock.advance_to(3_500_000)
    found.state("a", "model", "second", "means")
    found.state("a", "ledger", "gone", "means")
    assert found.current() == [Condition("a", "ledger", 3_500_000, "means", "gone"), Condition("a", "model", 1_000_000, "means", "second")]
    found.state("a", "model", "")
    found.state("a", "model", "")
    assert [c.cause for c in found.current()] == ["ledger"]
    recovered = [r.__dict__["seconds"] for r in caplog.records if r.message == "serving.recovered"]
    assert recovered == [2.5]
