"""training_set: the spine's rows with the features of three views, each row at its own time, on both clocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import checks, floors
from feature_store.data import VIEWS, WIDTHS, micros, scan
from feature_store.peer import Feast
from tidemill.features.embedded import DuckOfflineStore

FLOOR, FLOOR_SQL = "floor-numpy", "floor-sql"


def training_set(folder: Path, feast: Feast | None, rounds: int) -> None:
    """Ours and both floors have to equal the truth; a tool with one clock is shown with its values from the future."""
    spine = pq.read_table(folder / "spine.parquet")
    truth, at = floors.training_set_by_sql(folder), micros(spine["at"])
    created = {name: micros(pq.read_table(folder / name, columns=["created"])["created"]) for name in WIDTHS}
    facts: dict[str, dict[str, Any]] = {}
    spent, failures = kit.Spent(), dict[str, str]()

    def strict(tool: str, names: dict[str, str], call: Callable[[], pa.Table]) -> Callable[[], float]:
        def measure() -> float:
            kept: list[pa.Table] = []
            wall = spent.seconds(tool, lambda: kept.append(call()))
            facts[tool] = dict(checks.training_set(kept[0], names, truth, created, at))
            if facts[tool] != {"rows": spine.num_rows, "differences": 0, "future": 0}:
                raise kit.WrongError(str(facts[tool]))
            return wall

        return measure

    scans = {name: scan(folder, name) for name in WIDTHS}
    tools = {
        kit.OURS: strict(kit.OURS, checks.OUR_NAMES, lambda: DuckOfflineStore().join(spine, VIEWS, scans)),
        FLOOR: strict(FLOOR, checks.FLOOR_NAMES, lambda: floors.training_set_by_numpy(folder)),
        FLOOR_SQL: strict(FLOOR_SQL, checks.FLOOR_NAMES, lambda: floors.training_set_by_sql(folder)),
    }
    slow: dict[str, int] = {}
    if feast is not None:
        for offline in ("duckdb", "dask"):
            tools[f"feast-{offline}"] = _feast(feast, f"feast-{offline}", offline, folder, (truth, created, at), facts)
        slow["feast-dask"] = 3
    found = kit.interleave(tools, rounds, slow=slow, failures=failures)
    kit.report("training_set", found, "s", floor=FLOOR, extra=spent.facts(**facts), failures=failures)


def _feast(
    feast: Feast, tool: str, offline: str, folder: Path, truth: tuple[Any, ...], facts: dict[str, dict[str, Any]]
) -> Callable[[], float]:
    expected, created, at = truth

    def measure() -> float:
        answer = feast.ask("training_set", offline=offline, into=str(folder / f"{tool}.parquet"))
        got = pq.read_table(folder / f"{tool}.parquet")
        facts[tool] = {**checks.training_set(got, checks.FLOOR_NAMES, expected, created, at), "rows_lost": answer["lost"]}
        return float(answer["s"])

    return measure
