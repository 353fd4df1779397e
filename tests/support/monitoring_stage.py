"""A served week with labels: real log, labels, metrics and profiler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.core.definitions import Label, Service, Table
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.ledger.store import Ledger
from tidemill.monitoring.embedded import LedgerMetrics, SqliteLabelStore
from tidemill.monitoring.ports import LabelRow
from tidemill.serving.embedded.log import SqlitePredictionLog
from tidemill.serving.ports import Prediction, Role

START = 1_362_096_000_000_000  # 2013-03-01
LANDINGS = Table("landings", "files:x", event_time="at", known_time="known")


@dataclass
class Stage:
    """What monitoring works on."""

    service: Service
    log: SqlitePredictionLog
    labels: SqliteLabelStore
    metrics: LedgerMetrics
    ledger: Ledger
    delay_us: int = 20 * HOUR_US

    def serve(
        self, day: int, count: int = 48, version: int = 1, role: Role = "live", seed: int = 0, shift: float = 0.0, scale: float = 1.0
    ) -> None:
        """Answer `count` requests on a day; their labels become known `delay_us` later."""
        rng = np.random.default_rng([seed, day])
        x = rng.normal(size=count) + shift
        p = 1 / (1 + np.exp(-x * scale))
        y = (rng.random(count) < 1 / (1 + np.exp(-x))).astype(float)
        at = [START + day * DAY_US + i * DAY_US // count for i in range(count)]
        names = [f"{day}-{i}" for i in range(count)]
        values: list[tuple[Any, ...]] = [(float(v), "EWR" if v > 0 else None) for v in x]
        self.log.append(
            [
                Prediction(n, "delay", "delay", version, role, t, float(s), ("x", "origin"), v)
                for n, t, s, v in zip(names, at, p, values, strict=True)
            ]
        )
        self.labels.write([LabelRow("late", n, float(v), t + HOUR_US, t + self.delay_us) for n, t, v in zip(names, at, y, strict=True)])

    def plain_loss(self, from_day: int, until_day: int, at_us: int, version: int = 1) -> tuple[float, int, int]:
        """Log loss, covered and n, row by row."""
        known = {r["key"]: r["value"] for r in self.labels.as_of("late", at_us).to_pylist()}
        losses, n = [], 0
        for p in self.log.read("delay", from_us=START + from_day * DAY_US, until_us=START + until_day * DAY_US, roles=["live", "canary"]):
            if p.version == version:
                n += 1
                if p.id in known:
                    losses.append(-np.log(p.score if known[p.id] else 1 - p.score))
        return float(np.mean(losses)) if losses else float("nan"), len(losses), n


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    label = Label("late", LANDINGS, "x > 15", key="flight", matures="1d")
    service = Service("delay", ["x", "origin"], label, LANDINGS, "flight", lead="1h")
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    made = Stage(service, SqlitePredictionLog(tmp_path / "p.db"), SqliteLabelStore(tmp_path / "l.db"), LedgerMetrics(ledger), ledger)
    yield made
    made.log.close()
    made.labels.close()
    ledger.close()
