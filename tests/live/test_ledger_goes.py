"""The database server that keeps the ledger is stopped under a model server that answers, and started again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.support import database_servers
from tests.support.serving_kit import FULL, Local, Stack, body, run

from tidemill.ledger.store import Ledger

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("databases")]


def test_postgresql_goes_and_comes_back_under_requests(tmp_path: Path) -> None:
    with database_servers.postgresql() as server:
        stack = Stack(tmp_path, ledger=Ledger(server.new_database()))
        for version in (1, 2):
            stack.add(version)
        stack.deploy(live=1)
        me, stranger = ({"authorization": f"Bearer {secret}"} for secret in (stack.tokens.make("me"), "tm_" + "x" * 43))

        async def script(local: Local) -> None:
            in_thread, answers = asyncio.get_running_loop().run_in_executor, list[tuple[int, Any]]()

            async def until(wanted: set[str]) -> None:
                for _ in range(2000):
                    stack.clock.advance_to(stack.clock.now_us() + 100_000)
                    reply = await local.infer(body(FULL), **me)
                    answers.append((reply.status, reply.json().get("parameters", {}).get("logged")))
                    if {c.cause for c in local.app.conditions.current()} == wanted:
                        return
                    await asyncio.sleep(0.01)
                raise AssertionError(f"never {wanted}: {local.app.conditions.current()}")

            await until(set())
            await in_thread(None, server.kill)
            await until({"ledger"})
            (condition,) = local.app.conditions.current()
            assert "is the server running" in condition.reason
            stack.clock.advance_to(stack.clock.now_us() + 1_000_000)  # an answer about a token holds for a moment
            assert (await local.infer(body(FULL), **stranger)).status == 503
            for _ in range(50):
                await until({"ledger"})
            await in_thread(None, server.start)
            await in_thread(None, lambda: stack.deploy(live=2))
            await until(set())
            await asyncio.sleep(0.6)
            stack.clock.advance_to(stack.clock.now_us() + 1_000_000)
            assert (await local.infer(body(FULL), **stranger)).status == 401
            assert (await local.infer(body(FULL), **me)).json()["model_version"] == "2"
            assert set(answers) == {(200, True)}, "no other answer, whatever became of the ledger"
            assert len(list(stack.log.read("late"))) == len(answers) + 1

        run(stack, script, token=True, poll_s=0.05)
