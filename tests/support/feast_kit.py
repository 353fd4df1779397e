"""A feature server in this process: taps and weather behind it, with the real stores."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.support.serving_kit import Reply, Scope
from tidemill.core.aggregates import count, latest
from tidemill.core.clock import ReplayClock
from tidemill.core.definitions import Definitions, Entity, FeatureService, FeatureView, OnDemand, Table
from tidemill.core.instants import HOUR_US, SECOND_US
from tidemill.features import apply_on_demand
from tidemill.features.embedded import OnlineLookup, SqliteOnlineStore, ViewProcessor
from tidemill.ingestion.embedded import LogStream
from tidemill.ledger.store import Ledger
from tidemill.serving import Tokens
from tidemill.serving.feast import FeatureRoutes, Pusher, Reader
from tidemill.serving.http import Settings
from tidemill.serving.server import ModelServer, build_app

UTC_US = pa.timestamp("us", "UTC")
NOW = 1_700_000_000 * SECOND_US
RIDES = Table("rides", ("files:rides", "push:rides-live"), event_time="happened", known_time="written")
RAIN = Table("rain", "files:rain", event_time="seen", known_time="seen")
SHAPE = FeatureView(
    "shape", Entity("courier"), RIDES, [latest("trips", "rating", "home", "since", ttl="20h"), count(over="1h", hop="5m", name="busy")]
)
SKY = FeatureView("sky", Entity("town"), RAIN, [latest("rain", ttl="36500d")])


def per_km(shape__rating: Any, km: Any) -> Any:
    if (km < 0).any():
        raise ZeroDivisionError("below zero")
    return shape__rating / km


def risk__wet(sky__rain: Any, km: Any, per_km: Any) -> Any:
    return np.where(np.isnan(sky__rain), np.nan, sky__rain * km) + 0 * np.nan_to_num(per_km)


ON_DEMAND = {"per_km": OnDemand(per_km), "risk__wet": OnDemand(risk__wet)}
DEFINITIONS = Definitions(
    tables={"rides": RIDES, "rain": RAIN},
    views={"shape": SHAPE, "sky": SKY},
    on_demand=ON_DEMAND,
    feature_services={"dispatch": FeatureService("dispatch", ["shape:rating", SKY, ON_DEMAND["risk__wet"]])},
)
SCHEMAS = {
    "rides": pa.schema(
        {"courier": pa.int64(), "happened": UTC_US, "written": UTC_US, "trips": pa.int64(), "rating": pa.float64(), "home": pa.string(),
         "since": UTC_US}
    ),
    "rain": pa.schema({"town": pa.string(), "seen": UTC_US, "rain": pa.float64()}),
}  # fmt: skip


def rows(name: str, *values: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([dict(v) for v in values], schema=SCHEMAS[name])


class FeastKit:
    """The server, its stores, and a way to ask it."""

    def __init__(self, home: Path, *, token: bool = False, **settings: Any) -> None:
        self.clock = ReplayClock(NOW)
        self.online, self.stream = SqliteOnlineStore(home / "online.db"), LogStream(home / "stream")
        self.processor = ViewProcessor(self.online, DEFINITIONS)
        self.processor.push(
            "rides",
            rows(
                "rides",
                {"courier": 1, "happened": NOW - HOUR_US // 2, "written": NOW - HOUR_US // 3, "trips": 15, "rating": 4.5, "home": "oslo",
                 "since": NOW - 5 * SECOND_US},
                {"courier": 2, "happened": NOW - 25 * HOUR_US, "written": NOW - 25 * HOUR_US, "trips": 3, "rating": 1.0, "home": None, "since": None},
                {"courier": 3, "happened": NOW - HOUR_US, "written": NOW - HOUR_US, "trips": None, "rating": 2.0, "home": None, "since": None},
            ),
        )  # fmt: skip
        self.processor.push("rain", rows("rain", {"town": "oslo", "seen": NOW - 9000 * HOUR_US, "rain": 7.25}))
        self.processor.advance(NOW)
        self.processor.commit()
        self.tokens = Tokens(Ledger(f"sqlite:///{home}/ledger.db"), self.clock)
        limits = Settings(**settings)
        lookup = OnlineLookup(self.online, DEFINITIONS, self.stream)
        reader = Reader(DEFINITIONS, lookup, apply_on_demand, lambda t: SCHEMAS[t.name], max_keys=limits.max_keys)
        self.pusher = Pusher(DEFINITIONS, self.stream, lambda t: SCHEMAS[t.name], self.clock, max_rows=limits.max_rows)
        self.reader = reader
        routes = FeatureRoutes(reader, self.pusher, clock=self.clock, settings=limits)
        self.app: ModelServer = build_app({}, self.tokens if token else None, clock=self.clock, settings=limits, features=routes)

    def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> Reply:
        """Send one request and answer what came back."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = Reply(raw)

        async def once() -> None:
            self.app._features.bind(self.app._threads)  # type: ignore[union-attr]
            await self.app.__rsgi__(Scope(method, path, {"content-length": str(len(raw)), **headers}), reply)

        asyncio.run(once())
        return reply

    def ask_at_once(self, path: str, *bodies: Any) -> list[Reply]:
        """Send requests that meet, and answer what came back for each."""
        replies = [Reply(json.dumps(body).encode()) for body in bodies]

        async def all_() -> None:
            self.app._features.bind(self.app._threads)  # type: ignore[union-attr]
            scopes = [Scope("POST", path, {"content-length": str(len(r.body))}) for r in replies]
            await asyncio.gather(*(self.app.__rsgi__(scope, reply) for scope, reply in zip(scopes, replies, strict=True)))

        asyncio.run(all_())
        return replies

    def features(self, *features: str, full: bool = False, **entities: list[Any]) -> dict[str, list[tuple[Any, str, str]]]:
        """Features by name: (value, status, event timestamp) of each row."""
        return read(self.ask("/get-online-features", {"features": list(features), "entities": entities, "full_feature_names": full}))


def read(reply: Reply) -> dict[str, list[tuple[Any, str, str]]]:
    assert reply.status == 200, reply.answer
    answer = reply.json()
    return {
        name: list(zip(r["values"], r["statuses"], r["event_timestamps"], strict=True))
        for name, r in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
    }
