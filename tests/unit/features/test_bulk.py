"""What came in bulk is remembered by its hashes; its values are found again in the table."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.features.test_processor import ALIVE, BOTH, BUSY, MINUTE, pings, read, trips

from tidemill.core.errors import InvalidError
from tidemill.core.meaning import view_digest
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor, lookup_in
from tidemill.features.ports import States
from tidemill.versioning.ports import Scan

TRIPS, PINGS = view_digest(BUSY), view_digest(ALIVE)


def _scan(folder: Path, name: str, *pieces: pa.Table) -> Scan:
    paths = []
    for i, piece in enumerate(pieces):
        paths.append(str(folder / f"{name}-{i}.parquet"))
        pq.write_table(piece, paths[-1])
    return Scan(name, 1, pq.read_schema(paths[0]), tuple(paths))


def _load(processor: ViewProcessor, digest: str, scan: Scan, minute: int) -> int:
    new = processor.load(digest, scan, at_us=minute * MINUTE)
    processor.commit({digest: "all of it"})
    processor.publish({digest: True})
    return new


def _loaded(folder: Path) -> tuple[SqliteOnlineStore, Scan]:
    store = SqliteOnlineStore(folder / "o.db")
    processor = ViewProcessor(store, BOTH)
    scan = _scan(folder, "trips", trips(("x", 10, 12, 5.0), ("y", 11, 12, 7.0)), trips(("z", 12, 13, 9.0), ("x", 10, 12, 5.0)))
    assert _load(processor, TRIPS, scan, 20) == 3
    assert _load(processor, PINGS, _scan(folder, "pings", pings((11, "low"))), 20) == 1
    return store, scan


def test_corrections_reach_rows_that_came_in_bulk_also_after_a_restart(tmp_path: Path) -> None:
    store, _ = _loaded(tmp_path)
    processor = ViewProcessor(store, BOTH)
    reader = OnlineReader(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    assert read(processor, 20)["busy__delay_mean_1h"] == read(reader, 20)["busy__delay_mean_1h"] == 7.0
    processor.advance(22 * MINUTE)
    assert processor.push("trips", trips(("z", 5, 21, 1.0), ("y", 11, 12, 7.0))) == 1
    assert read(processor, 22)["busy__delay"] == 7.0, "the newest was taken back; the one behind it is found in the table"
    processor.commit()
    assert read(reader, 22) == {"busy__delay_mean_1h": 13 / 3, "busy__count_1h": 3, "busy__delay": 7.0, "alive__level": "low"}
    assert read(reader, 21.5)["busy__delay"] == 7.0, "the writer's clock is ahead: answered from the rows"
    assert read(reader, 20.5)["busy__delay"] == read(processor, 15)["busy__delay"] == 9.0


def test_files_that_are_gone_are_an_error_with_the_next_step(tmp_path: Path) -> None:
    store, scan = _loaded(tmp_path)
    for path in scan.paths:
        Path(path).unlink()
    again = ViewProcessor(store, BOTH)
    again.advance(22 * MINUTE)
    assert again.push("trips", trips(("new", 20, 21, 1.0))) == 1, "new rows need no look-up"
    with pytest.raises(InvalidError, match="tidemill features materialize"):
        again.push("trips", trips(("z", 12, 22, 1.0)))


def test_compacted_files_are_as_good(tmp_path: Path) -> None:
    """Rows are found by their hashes, wherever the table has them now; rows that came later are not taken for them."""
    store, scan = _loaded(tmp_path)
    rows = pq.read_table(scan.paths[0])
    whole = _scan(tmp_path, "whole", pq.read_table(scan.paths[1]), rows, trips(("z", 3, 14, 100.0)))
    processor = ViewProcessor(store, BOTH, lookup_in(lambda _: whole))
    processor.advance(22 * MINUTE)
    assert processor.push("trips", trips(("z", 1, 21, 1.0))) == 1
    assert read(processor, 22)["busy__delay"] == 7.0
    assert read(processor, 22)["busy__delay_mean_1h"] == 13 / 3


class _Dying(SqliteOnlineStore):
    """Dies when it is to take the states of keys."""

    def fill(self, view: str, batches: Iterable[States]) -> None:
        raise KeyboardInterrupt


def test_a_load_that_was_killed_leaves_a_version_that_is_begun_again(tmp_path: Path) -> None:
    scan = _scan(tmp_path, "trips", trips(("x", 10, 12, 5.0)))
    with pytest.raises(KeyboardInterrupt):
        _load(ViewProcessor(_Dying(tmp_path / "o.db"), BOTH), TRIPS, scan, 20)
    again = ViewProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    assert [s.status for s in again.versions() if s.digest == TRIPS] == ["building"]
    with pytest.raises(InvalidError, match="still being built"):
        again.read([BUSY], [{"place": "a"}], 20 * MINUTE)
    assert again.push("trips", trips(("y", 10, 12, 9.0))) == 1, "rows may come before it is begun again"
    assert _load(again, TRIPS, scan, 20) == 1
    assert again.read([BUSY], [{"place": "a"}], 20 * MINUTE)[0]["busy__delay_mean_1h"] == 5.0


def test_a_load_waits_for_what_is_known_later(tmp_path: Path) -> None:
    processor = ViewProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    rows = trips(("x", 10, 12, 5.0), ("y", 10, 30, 9.0), ("x", 10, 40, 1.0), ("z", 50, 12, 3.0))
    _load(processor, TRIPS, _scan(tmp_path, "trips", rows), 20)
    assert [processor.read([BUSY], [{"place": "a"}], m * MINUTE)[0]["busy__count_1h"] for m in (20, 30, 50, 85)] == [1, 2, 3, 1]
    assert processor.read([BUSY], [{"place": "a"}], 40 * MINUTE)[0]["busy__delay_mean_1h"] == 5.0
