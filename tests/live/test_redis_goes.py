"""A real Redis is killed under load: each mode answers as declared, and all is as before once it is back."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.support.redis_server import Server, redis_server
from tests.support.serving_kit import LATE, LOOKUP, SKY, Local, Stack, body

from tidemill.adapters.redis.features import open_online
from tidemill.core.definitions import Definitions
from tidemill.features.embedded import OnlineReader, ViewProcessor
from tidemill.serving import DegradedReader

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.xdist_group("redis")]
DEFINITIONS = Definitions(views={"sky": SKY})


def fill(url: str, at_us: int) -> None:
    when = pa.array([at_us - 1], pa.int64()).cast(pa.timestamp("us", "UTC"))
    columns = {"origin": ["JFK"], "wind": [3.0], "cover": ["cloudy"], "observed_at": when, "published_at": when}
    processor = ViewProcessor(open_online(url, "p"), DEFINITIONS)
    processor.push("weather", pa.table(columns))
    processor.commit()


async def ask_until(local: Local, wanted: tuple[int, str | None], seen: list[tuple[int, str | None]]) -> None:
    for _ in range(2000):
        reply = await local.infer(body(LOOKUP))
        parameters = reply.json().get("parameters", {})
        seen.append((reply.status, parameters.get("degraded")))
        if seen[-1] == wanted:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"never {wanted}; last {seen[-3:]}")


@pytest.mark.parametrize("how", ["killed", "hanging"])
@pytest.mark.parametrize(("mode", "during"), [("fail", (503, None)), ("default", (200, "default")), ("last_known", (200, "last_known"))])
def test_a_server_that_goes_and_comes_back(tmp_path: Path, mode: Any, during: tuple[int, str | None], how: str) -> None:
    with redis_server(tmp_path / "redis", aof=True) as server:
        stack = Stack(tmp_path, replace(LATE, degraded=mode))
        fill(server.url, stack.clock.now_us())
        events: list[str] = []
        short = server.url.replace("20s", "200ms")
        reader = OnlineReader(open_online(short, "p"), DEFINITIONS)
        guarded = DegradedReader(stack.service, reader, retry_s=0.05, notify=lambda kind, _body: events.append(kind))
        stack.processor = guarded  # type: ignore[assignment]
        stack.add(1)
        stack.deploy(live=1)
        seen = asyncio.run(_through(stack, server, during, how))
        guarded.close()
    assert set(seen) <= {(200, None), during}, "no other answer, whenever it came"
    assert seen[0] == seen[-1] == (200, None)
    assert events[:1] == ["serving.degraded"]
    assert "serving.recovered" in events
    values = {p.degraded: p.values for p in stack.log.read("late")}
    assert values[""] == (3.0, "cloudy", "UA", 17.0, 6.0)
    if mode == "last_known":
        assert values["last_known"] == values[""]
    if mode == "default":
        assert values["default"] == (None, None, "UA", 17.0, None)


async def _through(stack: Stack, server: Server, during: tuple[int, str | None], how: str) -> list[tuple[int, str | None]]:
    seen: list[tuple[int, str | None]] = []
    async with Local(stack) as local:
        loop = asyncio.get_running_loop()
        await ask_until(local, (200, None), seen)
        load = [asyncio.create_task(ask_until(local, during, seen)) for _ in range(8)]
        await asyncio.sleep(0.02)
        await loop.run_in_executor(None, server.kill if how == "killed" else server.pause)
        await asyncio.gather(*load)
        assert [c.cause for c in local.app.conditions.current()] == ["online_store"]
        await loop.run_in_executor(None, server.start if how == "killed" else server.resume)
        await asyncio.gather(*(ask_until(local, (200, None), seen) for _ in range(8)))
        assert local.app.conditions.current() == []
    return seen
