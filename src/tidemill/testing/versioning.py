"""What every `TableStore` and `BlobStore` must keep."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from tidemill.core import digests
from tidemill.core.clock import ReplayClock
from tidemill.core.errors import ConflictError, CorruptError, InvalidError, NotFoundError
from tidemill.core.instants import DAY_US
from tidemill.testing.contract import Contract, keeps
from tidemill.testing.kills import Report, until_killed
from tidemill.versioning.ports import BlobStore, TableStore

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.timestamp("us", "UTC"))])


def rows(*identities: int) -> pa.Table:
    """Rows of the contract's table with these ids."""
    columns = [list(identities), [f"n{i}" for i in identities], list(identities)]
    return pa.table([pa.array(c, type=t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)


def read(store: TableStore, table: str, at: int | str | None = None) -> list[int]:
    """Ids of a table's rows, in ingestion order."""
    scan = store.scan(table, at)
    if not scan.paths:
        return []
    found: list[int] = ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table().column("id").to_pylist()
    return found


class TableStoreContract(Contract):
    """Supply `clock` if you need another, `store`: an empty store that uses it, and `reopen`: how another process opens it (it can be pickled)."""

    @pytest.fixture
    def clock(self) -> ReplayClock:
        """The clock that the store must use."""
        return ReplayClock(100 * DAY_US)

    @pytest.fixture
    def store(self, clock: ReplayClock) -> TableStore:
        """An empty store."""
        raise NotFoundError(f"supply a store fixture that uses {clock}")

    def test_isolated(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="main")
        store.append("t", rows(2, 3), batch="b", branch="audit-b")
        assert read(store, "t") == [1]
        assert read(store, "t", "audit-b") == [1, 2, 3]
        store.append("t", rows(4), batch="c", branch="main")
        assert read(store, "t", "audit-b") == [1, 2, 3]
        assert read(store, "t") == [1, 4]

    def test_isolated_from_an_empty_main(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="audit-a")
        assert read(store, "t") == []
        assert read(store, "t", "audit-a") == [1]
        assert store.publish("t", "audit-a").rows == 1
        assert read(store, "t") == [1]

    @keeps("isolated")
    def test_rejected_rows_outlive_maintenance(self, store: TableStore, clock: ReplayClock) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="main")
        store.append("t", rows(9), batch="bad", branch="audit-bad")
        for i in range(10, 16):
            clock.advance_to(clock.now_us() + DAY_US)
            store.append("t", rows(i), batch=f"b{i}", branch="main")
        store.maintain("t", now_us=clock.now_us(), keep_us=0)
        assert read(store, "t", "audit-bad") == [1, 9]
        store.publish("t", "audit-bad")
        assert read(store, "t") == [1, *range(10, 16), 9]

    def test_atomic_publish_moves_all_of_a_branch(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="audit")
        store.append("t", rows(2), batch="b", branch="audit")
        snapshot = store.publish("t", "audit")
        assert (snapshot.rows, snapshot.refs) == (2, ("main",))
        assert read(store, "t") == [1, 2]

    def test_atomic_when_killed(self, store: TableStore, reopen: Callable[[], TableStore]) -> None:
        store.create("t", SCHEMA)
        published = until_killed(_publish_for_ever, reopen, reports=3)
        found = read(reopen(), "t")
        assert found == list(range(len(found)))
        assert len(found) in (2 * len(published), 2 * len(published) + 2), "half of a branch was published, or a whole one lost"
        _publish_for_ever(reopen(), report=None, turns=1)
        assert len(read(reopen(), "t")) == len(found) + 2

    def test_idempotent_append(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        first = store.append("t", rows(1), batch="a", branch="audit-a")
        again = store.append("t", rows(1), batch="a", branch="audit-a")
        assert again.id == first.id
        published = store.publish("t", "audit-a")
        assert store.append("t", rows(1), batch="a", branch="audit-a").id == published.id
        assert read(store, "t") == [1]

    def test_idempotent_publish(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="audit-a")
        first = store.publish("t", "audit-a")
        store.append("t", rows(2), batch="b", branch="main")
        assert store.publish("t", "audit-a").id == first.id
        assert read(store, "t") == [1, 2]

    def test_idempotent_after_expiry(self, store: TableStore, clock: ReplayClock) -> None:
        store.create("t", SCHEMA)
        for i in range(6):
            clock.advance_to(clock.now_us() + DAY_US)
            store.append("t", rows(i), batch=f"b{i}", branch=f"audit-{i}")
            store.publish("t", f"audit-{i}")
            if i in (2, 5):
                clock.advance_to(clock.now_us() + 1)
                store.maintain("t", now_us=clock.now_us(), keep_us=0)
        for i in range(6):
            store.append("t", rows(i), batch=f"b{i}", branch=f"audit-{i}")
            store.publish("t", f"audit-{i}")
        assert read(store, "t") == list(range(6))

    @keeps("idempotent")
    def test_a_rejected_batch_may_come_again_elsewhere(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="audit-a")
        store.append("t", rows(1), batch="a", branch="main")
        assert read(store, "t") == [1]

    def test_immutable_snapshots(self, store: TableStore, clock: ReplayClock) -> None:
        store.create("t", SCHEMA)
        old = store.append("t", rows(1), batch="a", branch="main")
        store.tag("t", old.id, "trained-on")
        store.tag("t", old.id, "trained-on")
        clock.advance_to(clock.now_us() + 50 * DAY_US)
        young = store.append("t", rows(2), batch="b", branch="main")
        clock.advance_to(clock.now_us() + DAY_US)
        store.append("t", rows(3), batch="c", branch="main")
        store.maintain("t", now_us=clock.now_us(), keep_us=10 * DAY_US)
        store.create("t", pa.schema([*SCHEMA, ("more", pa.float64())]))
        assert read(store, "t", "trained-on") == read(store, "t", old.id) == read(store, "t", str(old.id)) == [1]
        assert read(store, "t", young.id) == [1, 2]
        assert store.scan("t", old.id).schema.names == SCHEMA.names

    def test_forgotten(self, store: TableStore, clock: ReplayClock) -> None:
        store.create("t", SCHEMA)
        for i in range(4):
            store.append("t", rows(2 * i, 2 * i + 1), batch=f"b{i}", branch="main")
        store.append("t", rows(8).drop_columns(["at"]), batch="without a time", branch="main")
        before = store.snapshots("t")[0]
        clock.advance_to(clock.now_us() + DAY_US)
        store.maintain("t", now_us=clock.now_us(), keep_us=10 * DAY_US, forget=("at", 3))
        assert read(store, "t") == [3, 4, 5, 6, 7, 8]
        assert read(store, "t", before.id) == list(range(9))
        assert store.snapshots("t")[0].rows == 6
        clock.advance_to(clock.now_us() + 20 * DAY_US)
        store.maintain("t", now_us=clock.now_us(), keep_us=10 * DAY_US, forget=("at", 3))
        assert read(store, "t") == [3, 4, 5, 6, 7, 8]
        with pytest.raises(NotFoundError):
            store.scan("t", before.id)

    @keeps("immutable")
    def test_a_snapshot_in_use_until_now_outlives_its_replacement(self, store: TableStore, clock: ReplayClock) -> None:
        store.create("t", SCHEMA)
        for i in range(5):
            store.append("t", rows(i), batch=f"b{i}", branch="main")
        before = store.scan("t")
        clock.advance_to(clock.now_us() + 100 * DAY_US)
        store.maintain("t", now_us=clock.now_us(), keep_us=DAY_US)
        assert read(store, "t") == list(range(5))
        assert ds.dataset(list(before.paths), schema=before.schema, format="parquet").count_rows() == 5

    def test_tag_conflicts(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        a = store.append("t", rows(1), batch="a", branch="main")
        b = store.append("t", rows(2), batch="b", branch="main")
        store.tag("t", a.id, "x")
        with pytest.raises(ConflictError):
            store.tag("t", b.id, "x")
        with pytest.raises(NotFoundError):
            store.tag("t", 12345, "y")

    def test_serial_publish(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="main")
        store.append("t", rows(2), batch="b", branch="audit-b")
        store.append("t", rows(3), batch="b2", branch="audit-b")
        store.append("t", rows(4), batch="c", branch="audit-c")
        store.publish("t", "audit-c")
        store.publish("t", "audit-b")
        assert read(store, "t") == [1, 4, 2, 3]
        assert store.append("t", rows(3), batch="b2", branch="audit-b").table == "t"
        store.publish("t", "audit-b")
        assert read(store, "t") == [1, 4, 2, 3]

    def test_additive_columns(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="main")
        store.create("t", pa.schema([("score", pa.float64()), *SCHEMA]))
        store.append("t", rows(2).append_column("score", pa.array([0.5])), batch="b", branch="main")
        scan = store.scan("t")
        found = ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table()
        assert found.column("score").to_pylist() == [None, 0.5]
        with pytest.raises(InvalidError, match="id"):
            store.create("t", pa.schema([("id", pa.string())]))

    def test_additive_columns_survive_compaction(self, store: TableStore, clock: ReplayClock) -> None:
        store.create("t", SCHEMA)
        store.append("t", rows(1), batch="a", branch="main")
        store.create("t", pa.schema([*SCHEMA, ("score", pa.float64())]))
        store.append("t", rows(2).append_column("score", pa.array([0.5])), batch="b", branch="main")
        store.maintain("t", now_us=clock.now_us(), keep_us=0)
        scan = store.scan("t")
        assert ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table().column("score").to_pylist() == [None, 0.5]

    def test_wrong_columns_are_refused(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        with pytest.raises(InvalidError, match="nam3"):
            store.append("t", rows(1).rename_columns(["id", "nam3", "at"]), batch="a", branch="main")
        with pytest.raises(InvalidError, match="id"):
            store.append("t", pa.table({"id": ["one"]}), batch="a", branch="main")
        with pytest.raises(InvalidError, match="id"):
            store.append("t", pa.table({"id": [1.5]}), batch="a", branch="main")
        assert read(store, "t") == []

    def test_absent_columns_are_null(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        store.append("t", pa.table({"id": [1]}), batch="a", branch="main")
        assert ds.dataset(list(store.scan("t").paths)).to_table().column("name").to_pylist() == [None]

    def test_unknown_names(self, store: TableStore) -> None:
        with pytest.raises(NotFoundError, match="landings"):
            store.scan("landings")
        store.create("landings", SCHEMA)
        with pytest.raises(NotFoundError, match="landings"):
            store.append("landing", rows(1), batch="a", branch="main")
        with pytest.raises(NotFoundError, match="audit-x"):
            store.publish("landings", "audit-x")
        with pytest.raises(NotFoundError, match="nothing"):
            store.scan("landings", "nothing")

    def test_snapshots_tell_the_clock(self, store: TableStore, clock: ReplayClock) -> None:
        store.create("t", SCHEMA)
        store.create("u", SCHEMA)
        first = store.append("t", rows(1, 2), batch="a", branch="main")
        clock.advance_to(clock.now_us() + DAY_US)
        second = store.append("t", rows(3), batch="b", branch="main")
        assert [s.id for s in store.snapshots("t")] == [second.id, first.id]
        assert (second.committed_us - first.committed_us, second.rows, second.added, second.parent) == (DAY_US, 3, 1, first.id)
        assert [s.id for s in store.snapshots()] == [second.id]

    def test_empty_rows(self, store: TableStore) -> None:
        store.create("t", SCHEMA)
        assert store.append("t", rows(), batch="a", branch="audit").rows == 0
        store.publish("t", "audit")
        assert store.scan("t").paths == ()
        store.append("t", rows(1), batch="b", branch="main")
        assert read(store, "t") == [1]

    def test_maintenance_changes_no_rows(self, store: TableStore, clock: ReplayClock) -> None:
        store.create("t", SCHEMA)
        for i in range(40):
            clock.advance_to(clock.now_us() + DAY_US)
            store.append("t", rows(2 * i, 2 * i + 1), batch=f"b{i}", branch=f"audit-{i}")
            store.publish("t", f"audit-{i}")
            if i % 10 == 9:
                before = read(store, "t")
                done = store.maintain("t", now_us=clock.now_us(), keep_us=5 * DAY_US)
                assert read(store, "t") == before
                assert done["snapshots_expired"] > 0
        assert read(store, "t") == list(range(80))
        assert len(store.scan("t").paths) <= 4
        assert len(store.snapshots("t")) <= 12

    @keeps("isolated", "serial")
    def test_any_history_equals_a_dict(self, store: TableStore, clock: ReplayClock) -> None:
        for seed in range(3):
            _random_history(store, clock, f"t{seed}", random.Random(seed))


def _publish_for_ever(store: TableStore, report: Report | None, turns: int = 1_000_000) -> None:
    done = len(read(store, "t")) // 2
    for turn in range(done, done + turns):
        for part in range(2):
            store.append("t", rows(2 * turn + part), batch=f"{turn}-{part}", branch=f"audit-{turn}")
        store.publish("t", f"audit-{turn}")
        if report is not None:
            report(turn)


def _random_history(store: TableStore, clock: ReplayClock, table: str, chance: random.Random) -> None:
    """Random appends, publishes and maintenance on a table, compared with lists."""
    store.create(table, SCHEMA)
    model: dict[str, list[int]] = {"main": []}
    own: dict[str, list[int]] = {}
    for i in range(30):
        clock.advance_to(clock.now_us() + DAY_US)
        branch = chance.choice(["main", "x", "y", "z"])
        if chance.random() < 0.6 or (branch != "main" and branch not in model):
            if branch not in model:
                model[branch], own[branch] = list(model["main"]), []
            store.append(table, rows(i), batch=f"b{i}", branch=branch)
            model[branch].append(i)
            own.setdefault(branch, []).append(i)
        elif branch != "main":
            store.publish(table, branch)
            model["main"] += own.pop(branch)
            del model[branch]
        if chance.random() < 0.2:
            store.maintain(table, now_us=clock.now_us(), keep_us=chance.choice([0, 3 * DAY_US]))
        assert {name: read(store, table, name) for name in model if model[name]} == {k: v for k, v in model.items() if v}


class BlobStoreContract(Contract):
    """Supply `store`: an empty store, and `reopen`: how another process opens it (it can be pickled)."""

    @pytest.fixture
    def store(self) -> BlobStore:
        """An empty store."""
        raise NotFoundError("supply a store fixture")

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A folder to store."""
        for name, text in (("a.txt", "one"), ("deep/er/b.bin", "two"), ("deep/empty", "")):
            path = tmp_path / "given" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "given"

    def test_verified(self, store: BlobStore, folder: Path) -> None:
        for digest, inside in ((store.put(b"hello"), ""), (store.put(folder), "deep/er/b.bin")):
            target = store.fetch(digest) / inside if inside else store.fetch(digest)
            _flip(target)
            with pytest.raises(CorruptError, match=digest) as caught:
                store.fetch(digest)
            assert len(set(_digests(str(caught.value)))) >= 2

    def test_verified_files_that_appear_or_vanish(self, store: BlobStore, folder: Path) -> None:
        digest = store.put(folder)
        extra = store.fetch(digest) / "extra"
        extra.write_text("x")
        with pytest.raises(CorruptError, match="extra"):
            store.fetch(digest)
        extra.unlink()
        (store.fetch(digest) / "a.txt").unlink()
        with pytest.raises(CorruptError, match=r"a\.txt"):
            store.fetch(digest)

    def test_put_mends_what_is_damaged(self, store: BlobStore, folder: Path) -> None:
        for given, inside in ((b"hello", ""), (folder, "a.txt")):
            digest = store.put(given)
            path = store.fetch(digest)
            _flip(path / inside if inside else path)
            assert store.put(given) == digest
            assert store.fetch(digest).exists()

    def test_faithful(self, store: BlobStore, folder: Path) -> None:
        found = store.fetch(store.put(folder))
        assert digests.tree(found) == digests.tree(folder)
        assert store.fetch(store.put(folder / "a.txt")).read_text() == "one"
        assert store.put(folder) == digests.of_tree(digests.tree(folder))
        assert store.put(b"one") == store.put(folder / "a.txt") == digests.of_bytes(b"one")

    def test_atomic(self, store: BlobStore, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            store.put(tmp_path / "not there")
        with pytest.raises(NotFoundError):
            store.fetch(digests.of_bytes(b"never put"))
        with pytest.raises(NotFoundError):
            store.size_bytes(digests.of_bytes(b"never put"))

    def test_atomic_when_killed(self, store: BlobStore, reopen: Callable[[], BlobStore], tmp_path: Path) -> None:
        for number in range(2):
            told = until_killed(_put_for_ever, partial(_opened, reopen, tmp_path / f"given-{number}"), reports=5)
            *whole, last = [told[i : i + 2] for i in range(0, len(told), 2)]
            for digest in whole:
                assert digests.of_tree(digests.tree(store.fetch(digest[0]))) == digest[1] == digest[0]
            try:
                found = store.fetch(last[0])
            except NotFoundError:
                assert len(last) == 1
            else:
                assert digests.of_tree(digests.tree(found)) == last[0]

    def test_names_are_digests_only(self, store: BlobStore) -> None:
        for name in ("../../etc/passwd", "sha256:../../x", "sha256:" + "A" * 64, ""):
            with pytest.raises(InvalidError):
                store.fetch(name)

    def test_idempotent(self, store: BlobStore, folder: Path) -> None:
        assert store.put(b"x") == store.put(b"x")
        digest = store.put(folder)
        before = store.fetch(digest).stat().st_ino
        assert store.put(folder) == digest
        assert store.fetch(digest).stat().st_ino == before

    def test_remove_frees_the_bytes(self, store: BlobStore, folder: Path) -> None:
        tree, blob = store.put(folder), store.put(b"12345")
        assert store.size_bytes(blob) == 5
        assert store.size_bytes(tree) == 6
        assert store.remove([tree, blob, digests.of_bytes(b"never put")]) == 11
        assert store.remove([tree, blob]) == 0
        for digest in (tree, blob):
            with pytest.raises(NotFoundError):
                store.fetch(digest)


def _opened(reopen: Callable[[], BlobStore], folder: Path) -> tuple[BlobStore, Path]:
    return reopen(), folder


def _put_for_ever(given: tuple[BlobStore, Path], report: Report) -> None:
    """Report a folder's digest before it is put, and what `put` answered."""
    store, folder = given
    for turn in count():
        for name in ("a.bin", "b/c.bin"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(random.Random(f"{folder}{turn}{name}").randbytes(4_000_000))
        report(digests.of_tree(digests.tree(folder)))
        report(store.put(folder))


def _flip(path: Path) -> None:
    """Change one bit of a file, keeping its size."""
    stat = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))
    assert path.stat().st_size == stat.st_size


def _digests(text: str) -> Sequence[str]:
    return [word for word in text.replace(";", " ").split() if word.startswith("sha256:")]
