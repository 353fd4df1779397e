"""What lanes in other processes are told outlives whoever is killed, and they read tables as of their turn."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tidemill.core.clock import ReplayClock
from tidemill.core.errors import TidemillError
from tidemill.core.instants import DAY_US
from tidemill.platform.lanes import Opening, PinnedTables, RemoteLane, Turns
from tidemill.retraining.replay import Turn
from tidemill.versioning.embedded import IcebergTableStore


def turn(day: int, **more: Any) -> Turn:
    return Turn("r", 0, 0, (day - 1) * DAY_US, day * DAY_US, **more)


def test_halves_are_taken_in_order_and_forgotten_when_done(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns")
    for day in (9, 10, 101):
        turns.put("settle", turn(day, pins={"t": day}))
        turns.put("serve", turn(day, inputs=((1.5, None, "x"),)))
    found = [turns.get(name) for name in turns.names()]
    assert [(half, t.until // DAY_US) for half, t in found] == [(h, d) for d in (9, 10, 101) for h in ("serve", "settle")]
    assert [t.inputs for _half, t in found[::2]] == [((1.5, None, "x"),)] * 3
    assert [dict(t.pins) for _half, t in found[1::2]] == [{"t": 9}, {"t": 10}, {"t": 101}]
    turns.done(turns.names()[0])
    turns.done("never there")
    assert len(Turns(tmp_path / "turns").names()) == 5, "whoever comes after a kill finds what is left"


def test_a_half_told_again_is_one(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns")
    turns.put("settle", turn(1, pins={"t": 1}))
    (name,) = {turns.put("settle", turn(1, pins={"t": 2})), *turns.names()}
    assert dict(turns.get(name)[1].pins) == {"t": 2}
    (tmp_path / "turns" / f".{name}").write_bytes(b"half")  # killed in the midst of writing
    assert turns.names() == [name]


def test_pinned_tables_stand_still(tmp_path: Path) -> None:
    tables = IcebergTableStore(tmp_path / "lake", f"sqlite:///{tmp_path}/catalog.db", ReplayClock(0))
    rows = pa.table({"n": [1]})
    tables.create("t", rows.schema)
    first, second = (tables.append("t", rows, batch=batch, branch="main").id for batch in ("a", "b"))
    pinned = PinnedTables(tables)
    assert pinned.scan("t").snapshot_id == second
    pinned.pins = {"t": first}
    assert pinned.scan("t").snapshot_id == first
    assert pinned.scan("t", second).snapshot_id == second, "who names a snapshot gets it"
    assert [s.id for s in pinned.snapshots("t")] == [second, first]


class Unreadable:
    """Raises where it is read, not where it is written."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("no number",)


def test_what_a_lane_cannot_read_it_answers(tmp_path: Path) -> None:
    told: Any = Unreadable()
    opening = Opening(f"{tmp_path}/none", (), "s", str(tmp_path), "never", "never", 1)
    with ThreadPoolExecutor() as waiting, closing(RemoteLane(opening)) as lane:
        with pytest.raises(TidemillError, match="none"):
            lane.resume(told)
        answer = waiting.submit(lane.finish).exception(30)
    assert isinstance(answer, ValueError)
    assert "no number" in str(answer)
