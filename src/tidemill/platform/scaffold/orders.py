"""Sixty days of orders from six kitchens, the same ones every time, with a change half-way that a model has to learn anew.

How long a delivery takes depends on the way, on what was ordered, on the hour and on how busy its kitchen is. On day 30 a suburb is
opened: ways get longer, and the bridge to it makes each kilometre slower. What was learned before is then wrong.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, ORDERS_A_DAY, CHANGE_ON_DAY = 60, 110, 30
KITCHENS = ("dumpling", "falafel", "noodle", "pizza", "sushi", "taco")


@dataclass(frozen=True, slots=True)
class Order:
    """One order and how it went; `recorded_at` is when its delivery was known."""

    order: str
    kitchen: str
    distance_km: float
    items: int
    placed_at: datetime
    delivered_at: datetime
    recorded_at: datetime
    minutes: float


def orders(seed: int = 7) -> list[Order]:
    """All orders, by the time they were placed."""
    chance = random.Random(seed)  # noqa: S311 - example data, not a secret
    busy = dict.fromkeys(KITCHENS, 0.0)
    out: list[Order] = []
    for day in range(DAYS):
        moments = sorted(chance.betavariate(3.2, 2.0) * 24 for _ in range(ORDERS_A_DAY))
        for hour in moments:
            for kitchen in KITCHENS:
                busy[kitchen] = 0.97 * busy[kitchen] + chance.gauss(0, 1.3)
            out.append(_order(len(out), day, hour, chance, busy))
    return out


def _order(number: int, day: int, hour: float, chance: random.Random, busy: dict[str, float]) -> Order:
    changed = day >= CHANGE_ON_DAY
    kitchen = chance.choice(KITCHENS)
    distance = round(chance.gammavariate(2.2, 2.1 if changed else 1.3), 2)
    items = 1 + min(9, int(chance.expovariate(0.5)))
    rush = 6 * math.exp(-(((hour - 19) / 2) ** 2))
    way = distance * (4.2 if changed else 2.6)
    minutes = max(6.0, 17 + way + 1.4 * items + rush + 1.6 * busy[kitchen] + chance.gauss(0, 4) - (8 if changed else 0))
    placed = FIRST_DAY + timedelta(days=day, seconds=round(hour * 3600))
    delivered = placed + timedelta(seconds=round(minutes * 60))
    return Order(f"o{number:05d}", kitchen, distance, items, placed, delivered, delivered + timedelta(minutes=5), round(minutes, 1))


def write_orders(folder: Path) -> list[Path]:
    """Write `orders/` (known when placed) and `deliveries/` (known five minutes after arrival) as one CSV file a day."""
    rows = orders()
    placed = ("order", "kitchen", "distance_km", "items", "placed_at")
    arrived = ("order", "kitchen", "minutes", "delivered_at", "recorded_at")
    return _daily(folder / "orders", rows, placed, "placed_at") + _daily(folder / "deliveries", rows, arrived, "recorded_at")


def _daily(folder: Path, rows: Iterable[Order], columns: Sequence[str], known: str) -> list[Path]:
    days: dict[str, list[Order]] = {}
    for row in rows:
        days.setdefault(getattr(row, known).date().isoformat(), []).append(row)
    folder.mkdir(parents=True)
    paths = []
    for day, found in sorted(days.items()):
        path = folder / f"{day}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for row in sorted(found, key=lambda r: (getattr(r, known), r.order)):
                writer.writerow([_text(getattr(row, c)) for c in columns])
        paths.append(path)
    return paths


def _text(value: object) -> object:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
