"""What a service answers while its features cannot be read, and how it comes back."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LATE, LOOKUP, Local, Reply, Sky, Stack, body
from tests.support.waiting import until as wait

from tidemill.core.definitions import FeatureView, Service
from tidemill.core.errors import InvalidError, LostError, NotFoundError, UnavailableError
from tidemill.core.instants import SECOND_US
from tidemill.serving import DegradedReader


class Failing(Sky):
    """Raises what it is told to, for all keys or some."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.only: str | None = None
        self.threads: list[str] = []

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        self.threads.append(threading.current_thread().name)
        if self.error is not None and (self.only is None or any(k["origin"] == self.only for k in keys)):
            raise self.error
        return super().read(views, keys, at_us)

    def current(self, view: str) -> FeatureView | None:
        return None

    def version(self, digest: str) -> FeatureView | None:
        return None

    def known_us(self) -> dict[str, int]:
        return {"sky": 7}

    def whole_keys(self, views: Sequence[FeatureView]) -> frozenset[str]:
        return frozenset()


class World:
    """A served stack whose features can go."""

    def __init__(self, home: Path, **declared: Any) -> None:
        self.service = replace(LATE, **declared)
        self.sky, self.events = Failing(), list[tuple[str, dict[str, Any]]]()
        self.reader = DegradedReader(self.service, self.sky, retry_s=0.02, notify=lambda kind, told: self.events.append((kind, dict(told))))
        self.stack = Stack(home, self.service)
        self.stack.processor = self.reader  # type: ignore[assignment]
        self.stack.add(1)
        self.stack.deploy(live=1)

    def run(self, script: Any) -> Any:
        async def go() -> Any:
            async with Local(self.stack) as local:
                return await script(local)

        return asyncio.run(go())


until = partial(wait, "it to come to pass", seconds=5)


def test_fail_is_503_with_a_reason_and_recovers(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def script(local: Local) -> list[Reply]:
        before = await local.infer(body(LOOKUP))
        world.sky.error = UnavailableError("the store is gone")
        during = [await local.infer(body(LOOKUP)) for _ in range(5)]
        carried = await local.infer(body(FULL))
        health = await local.ask("GET", "/v2/health")
        world.sky.error = None
        await asyncio.get_running_loop().run_in_executor(None, until, lambda: not world.reader.reason)
        return [before, *during, carried, health, await local.infer(body(LOOKUP))]

    before, *during, carried, health, after = world.run(script)
    assert before.status == after.status == carried.status == 200
    assert "degraded" not in after.json()["parameters"]
    assert {r.status for r in during} == {503}
    assert "cannot read its features: the store is gone" in during[1].json()["error"]
    assert dict(during[1].headers)["retry-after"] == "1"
    assert health.json()["services"]["late"]["features"] == "the store is gone"
    until(lambda: len(world.events) == 2)
    assert world.events[0] == ("serving.degraded", {"mode": "fail", "reason": "the store is gone"})
    assert world.events[1][0] == "serving.recovered"


def test_only_the_first_request_waits_for_a_store_that_is_gone(tmp_path: Path) -> None:
    world = World(tmp_path, degraded="default")
    world.sky.error = UnavailableError("gone")
    mine = threading.current_thread().name
    for _ in range(50):
        world.reader.read(world.service.views, [LOOKUP], 1)
    assert world.sky.threads.count(mine) == 1
    world.reader.close()


def test_default_answers_say_so_everywhere(tmp_path: Path) -> None:
    world = World(tmp_path, degraded="default", degraded_defaults={"sky__wind": 4.0})
    world.sky.error = UnavailableError("gone")

    async def script(local: Local) -> tuple[Reply, Reply, Reply]:
        answer = await local.infer(body(LOOKUP))
        metrics = await local.ask("GET", "/metrics")
        world.sky.error = None
        await asyncio.get_running_loop().run_in_executor(None, until, lambda: not world.reader.reason)
        return answer, metrics, await local.infer(body(LOOKUP))

    answer, metrics, after = world.run(script)
    assert answer.status == 200
    assert answer.json()["parameters"]["degraded"] == "default"
    assert 'tidemill_serving_degraded_total{service="late",mode="default"} 1' in metrics.answer.decode()
    assert 'tidemill_serving_features_unavailable{service="late"} 1' in metrics.answer.decode()
    logged = {p.degraded: p for p in world.stack.log.read("late")}
    assert set(logged) == {"default", ""}
    assert logged["default"].values == (4.0, None, "UA", 17.0, 8.0), "on-demand features are computed from what stands in"
    assert logged[""].values == (3.0, "cloudy", "UA", 17.0, 6.0)
    assert "degraded" not in after.json()["parameters"]
    until(lambda: len(world.events) == 2)
    assert world.events[1] == ("serving.recovered", {"mode": "default", "rows": 1})


def test_last_known_answers_what_was_read_last_while_it_is_young(tmp_path: Path) -> None:
    world = World(tmp_path, degraded="last_known", degraded_max_age="1m")
    read = world.reader.read
    at = 1_357_057_800_000_000
    other = {**LOOKUP, "origin": "EWR"}
    assert read(world.service.views, [LOOKUP], at) == [{"sky__wind": 3.0, "sky__cover": "cloudy"}]
    world.sky.error = UnavailableError("gone")
    known, unknown = read(world.service.views, [LOOKUP, other], at + 60 * SECOND_US)
    assert known == {"sky__wind": 3.0, "sky__cover": "cloudy"}
    assert unknown == {"sky__wind": None, "sky__cover": None}
    assert [known.mode, unknown.mode] == ["last_known", "default"]  # type: ignore[attr-defined]
    assert read(world.service.views, [LOOKUP], at + 61 * SECOND_US) == [{"sky__wind": None, "sky__cover": None}]
    world.reader.close()


def test_last_known_forgets_what_was_read_longest_ago(tmp_path: Path) -> None:
    world = World(tmp_path, degraded="last_known")
    reader = DegradedReader(world.service, world.sky, remember=2)
    for origin in ("JFK", "EWR", "JFK", "LGA"):
        reader.read(world.service.views, [{**LOOKUP, "origin": origin}], 1)
    world.sky.error = UnavailableError("gone")
    found = reader.read(world.service.views, [{**LOOKUP, "origin": o} for o in ("JFK", "EWR", "LGA")], 1)
    assert [values.mode for values in found] == ["last_known", "default", "last_known"]  # type: ignore[attr-defined]
    reader.close()


def test_a_lost_state_degrades_only_the_requests_that_need_it(tmp_path: Path) -> None:
    world = World(tmp_path, degraded="default")
    world.sky.error, world.sky.only = LostError("evicted"), "EWR"
    requests = [{**LOOKUP, "origin": o} for o in ("JFK", "EWR", "JFK", "JFK", "EWR")]
    found = world.reader.read(world.service.views, requests, 1)
    assert [type(values).__name__ for values in found] == ["dict", "DegradedValues", "dict", "dict", "DegradedValues"]
    assert found[3]["sky__wind"] == 3.0
    assert not world.reader.reason
    until(lambda: world.events)
    assert world.events == [("serving.degraded", {"mode": "default", "reason": "evicted"})]


def test_errors_of_the_request_are_still_its_own(tmp_path: Path) -> None:
    world = World(tmp_path, degraded="default")
    world.sky.error = InvalidError("too long ago")
    with pytest.raises(InvalidError, match="too long ago"):
        world.reader.read(world.service.views, [LOOKUP], 1)
    assert not world.reader.reason


@pytest.mark.parametrize(
    ("declared", "error", "match"),
    [
        ({"degraded": "guess"}, InvalidError, "fail, default, last_known"),
        ({"degraded_defaults": {"sky__wind": 1.0}}, InvalidError, "fails instead"),
        ({"degraded": "default", "degraded_defaults": {"sky__wint": 1.0}}, NotFoundError, "sky__wind"),
        ({"degraded": "last_known", "degraded_max_age": "soon"}, InvalidError, "soon"),
    ],
)
def test_what_cannot_be_declared(declared: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        DegradedReader(replace(LATE, **declared), Failing())
    assert Service.__dataclass_fields__["degraded"].default == "fail"


def test_who_watches_hears_of_a_store_that_is_gone_and_of_lost_states_until_they_are_made_anew(tmp_path: Path) -> None:
    world, heard = World(tmp_path, degraded="default"), list[str]()
    world.reader.watch(heard.append)
    world.sky.error, world.sky.only = LostError("evicted"), "EWR"
    for _ in range(3):
        world.reader.read(world.service.views, [{**LOOKUP, "origin": "EWR"}], 1)
    assert world.reader.read(world.service.views, [LOOKUP], 1)[0]["sky__wind"] == 3.0, "others have theirs"
    assert heard == ["evicted"], "once, and it is not over because another request was answered"
    world.sky.error, world.sky.only = UnavailableError("down"), None
    world.reader.read(world.service.views, [LOOKUP], 1)
    assert heard == ["evicted", "down"]
    late: list[str] = []
    world.reader.watch(late.append)
    assert late == ["down"], "who comes later is told at once"
    world.sky.error, world.sky.only = LostError("evicted"), "EWR"
    until(lambda: late == ["down", "evicted"])
    world.sky.error = None
    until(lambda: late == ["down", "evicted", ""])
    world.reader.close()
