"""What every `Trainer` and `TrainingSource` must keep."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pytest

from tidemill.core.errors import ConflictError, InvalidError, UnavailableError
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.testing.contract import Contract, keeps
from tidemill.training import encode, pack_model, read_model
from tidemill.training.ports import Flavor, Model, Trainer, TrainingSet, TrainingSource


def where(*values: Any) -> tuple[int, int, tuple[Any, ...]]:
    """Process, niceness and arguments of a call."""
    return os.getpid(), os.nice(0), values


def fail(text: str) -> None:
    """Raise an error of Tidemill's."""
    raise ConflictError(text)


def die() -> None:
    """End the process as the kernel would when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> None:
    """Take long."""
    time.sleep(seconds)


def shout() -> str:
    """Write to standard output, as libraries do."""
    os.write(1, b"progress ... 100 %\n")
    return "done"


class FlavorContract(Contract):
    """Supply `flavor`, and `fit`: it trains a model of the flavor on a set that `rows` gives, the same for equal rows."""

    @pytest.fixture
    def rows(self) -> TrainingSet:
        """Two numbers, some of them null, and a text, with a label that depends on all."""
        rng = np.random.default_rng(7)
        a, b, text = rng.normal(size=400), rng.normal(size=400), rng.choice(["x", "y"], 400)
        label = (a + (text == "y") + rng.normal(size=400) > 0.5).astype(float)
        b[::9] = np.nan
        at = pa.array(np.arange(400) * HOUR_US).cast(pa.timestamp("us", "UTC"))
        columns = {"id": [str(i) for i in range(400)], "at": at, "a": a, "b": pa.array(b, from_pandas=True), "t": text, "label": label}
        return TrainingSet("svc", pa.table(columns), ("a", "b", "t"), {"t": ("x", "y")}, 400 * HOUR_US)

    @keeps("same")
    def test_same_scores_when_packed_and_read_back(
        self, flavor: Flavor, fit: Callable[[TrainingSet], Model], rows: TrainingSet, tmp_path: Path
    ) -> None:
        model = fit(rows)
        x, _y = encode(rows)
        facts = pack_model(model, tmp_path)
        back = read_model(tmp_path)
        assert facts["features"] == list(back.features) == ["a", "b", "t"]
        assert back.native == model.native == (tmp_path / flavor.native).read_bytes()
        np.testing.assert_array_equal(flavor.score(back, x), flavor.score(model, x))
        assert np.isfinite(flavor.score(model, x)).all()

    @keeps("equal")
    def test_equal_models_pack_to_equal_files(self, fit: Callable[[TrainingSet], Model], rows: TrainingSet, tmp_path: Path) -> None:
        found = []
        for turn in ("one", "two"):
            (tmp_path / turn).mkdir()
            pack_model(fit(rows), tmp_path / turn)
            found.append({path.name: path.read_bytes() for path in (tmp_path / turn).iterdir()})
        assert found[0] == found[1]

    @keeps("refused")
    def test_bytes_that_are_no_model_are_refused(self, flavor: Flavor, fit: Callable[[TrainingSet], Model], rows: TrainingSet) -> None:
        with pytest.raises(InvalidError):
            flavor.score(replace(fit(rows), native=b"no model"), encode(rows)[0])


class TrainerContract(Contract):
    """Supply `trainer`."""

    @keeps("apart")
    def test_work_runs_in_a_nicer_process_of_its_own(self, trainer: Trainer) -> None:
        pid, niceness, _values = trainer.run(where, ())
        assert pid != os.getpid()
        assert niceness > os.nice(0)

    @keeps("faithful")
    def test_values_come_back_as_they_were(self, trainer: Trainer) -> None:
        array = np.array([0.1, np.nan, np.inf])
        _pid, _nice, (text, found) = trainer.run(where, ("ü\0", array))
        assert text == "ü\0"
        np.testing.assert_array_equal(found, array)

    @keeps("faithful")
    def test_an_error_is_raised_again(self, trainer: Trainer) -> None:
        with pytest.raises(ConflictError, match="somebody was first"):
            trainer.run(fail, ("somebody was first",))

    def test_output_of_the_work_does_not_disturb_the_answer(self, trainer: Trainer) -> None:
        assert trainer.run(shout, ()) == "done"

    @keeps("contained")
    def test_a_killed_worker_is_unavailable_and_the_caller_lives_on(self, trainer: Trainer) -> None:
        with pytest.raises(UnavailableError, match="safe"):
            trainer.run(die, ())
        assert trainer.run(shout, ()) == "done"

    def test_work_that_takes_too_long_is_stopped(self, trainer: Trainer) -> None:
        started = time.perf_counter()
        with pytest.raises(UnavailableError):
            trainer.run(sleep, (60.0,), timeout_s=0.5)
        assert time.perf_counter() - started < 30

    def test_a_function_that_cannot_be_imported_is_refused(self, trainer: Trainer) -> None:
        with pytest.raises(InvalidError, match="top of a module"):
            trainer.run(lambda: 1, ())


class World(Protocol):
    """Where a `TrainingSource` reads: a spine `schedule` (flight, scheduled_at, filed_at, distance), labels `late`, and service `delay` over it.

    The service's key and the table's is `flight`, its lead an hour, its features `distance` and `carrier`.
    """

    def publish(self, rows: list[tuple[str, int, int, float, str | None]]) -> None:
        """Publish rows (flight, scheduled_us, filed_us, distance, carrier)."""
        ...

    def label(self, rows: list[tuple[str, float | None, int]]) -> None:
        """State labels (flight, value, known_us)."""
        ...

    def source(self) -> TrainingSource:
        """The source under test."""
        ...

    def tags(self) -> set[str]:
        """Names of the tagged snapshots of `schedule`."""
        ...


def day(n: float) -> int:
    """The instant `n` days after day 100."""
    return int((100 + n) * DAY_US)


class TrainingSourceContract(Contract):
    """Supply `world`."""

    @keeps("labelled", "leak-free")
    def test_rows_are_labelled_in_time_order_and_not_later_than_asked(self, world: World) -> None:
        world.publish([(f"f{i}", day(10 - i), day(0), float(i), "B6" if i % 2 else "AA") for i in range(10)])
        world.label([(f"f{i}", float(i % 2), day(10 - i) + HOUR_US) for i in range(9)])
        rows = world.source().frame("delay", day(7))
        assert rows.table.column_names == ["id", "at", "distance", "carrier", "label"]
        assert rows.table.column("id").to_pylist() == ["f8", "f7", "f6", "f5", "f4"]  # f9 has no label; f3's is not known yet
        assert rows.table.column("label").to_pylist() == [0.0, 1.0, 0.0, 1.0, 0.0]
        assert rows.table.column("at").cast("int64").to_pylist()[0] == day(2) - HOUR_US
        assert rows.categories == {"carrier": ("AA", "B6")}
        assert (rows.service, rows.until_us, rows.features) == ("delay", day(7), ("distance", "carrier"))

    @keeps("timeless")
    def test_what_became_known_later_changes_nothing(self, world: World) -> None:
        world.publish([(f"f{i}", day(i), day(0), float(i), "AA") for i in range(1, 6)])
        world.label([(f"f{i}", 1.0, day(i) + HOUR_US) for i in range(1, 6)])
        before = world.source().frame("delay", day(5.5))
        world.publish([("f2", day(2), day(6), 99.0, "ZZ"), ("f9", day(1.5), day(6), 9.0, "AA")])
        world.label([("f2", 0.0, day(6)), ("f9", 1.0, day(6)), ("f3", None, day(7))])
        after = world.source().frame("delay", day(5.5))
        assert_equal(before, after)
        newer = world.source().frame("delay", day(8))
        assert newer.table.column("id").to_pylist() == ["f1", "f2", "f4", "f5"]  # f3's label was withdrawn; f9 was filed too late
        assert newer.table.column("label").to_pylist() == [1.0, 0.0, 1.0, 1.0]
        assert newer.table.column("distance").to_pylist() == [1.0, 2.0, 4.0, 5.0]  # the correction came after f2 was served

    @keeps("leak-free")
    def test_a_row_stands_as_it_was_known_at_its_own_time(self, world: World) -> None:
        world.publish(
            [
                ("early", day(2), day(0), 1.0, "AA"),
                ("early", day(2), day(1), 2.0, "AA"),  # corrected in time
                ("late", day(2), day(0), 3.0, "AA"),
                ("late", day(2), day(2) - HOUR_US + 1, 4.0, "AA"),  # corrected a microsecond after it was served
                ("just", day(2), day(0), 5.0, "AA"),
                ("just", day(2), day(2) - HOUR_US, 6.0, "AA"),  # corrected at that very microsecond
                ("moved", day(2), day(0), 7.0, "AA"),
                ("moved", day(3), day(1), 8.0, "AA"),  # moved to the next day in time
            ]
        )
        world.label([(key, 1.0, day(3)) for key in ("early", "late", "just", "moved")])
        rows = world.source().frame("delay", day(4)).table
        found = dict(zip(rows.column("id").to_pylist(), rows.column("distance").to_pylist(), strict=True))
        assert found == {"early": 2.0, "late": 3.0, "just": 6.0, "moved": 8.0}

    @keeps("versioned")
    def test_versions_change_with_what_is_read_and_only_then(self, world: World) -> None:
        world.publish([("a", day(1), day(0), 1.0, "AA")])
        world.label([("a", 1.0, day(2))])
        source = world.source()
        first = source.versions("delay", day(3))
        assert source.versions("delay", day(3)) == first
        world.label([("a", 0.0, day(9))])
        assert source.versions("delay", day(3)) == first
        assert source.versions("delay", day(9)) != first
        world.publish([("b", day(1), day(0), 1.0, "AA")])
        assert source.versions("delay", day(3)) != first

    def test_a_tag_keeps_the_snapshots_that_were_read(self, world: World) -> None:
        world.publish([("a", day(1), day(0), 1.0, None)])
        world.label([("a", 1.0, day(2))])
        rows = world.source().frame("delay", day(3), tag="run-1")
        assert set(rows.snapshots) == {"schedule"}
        assert any(name.startswith("run-1-") for name in world.tags())

    def test_no_labelled_row_is_an_error_that_says_what_to_do(self, world: World) -> None:
        with pytest.raises(InvalidError, match="ingest"):
            world.source().frame("delay", day(3))
        world.publish([("a", day(1), day(0), 1.0, "AA")])
        with pytest.raises(InvalidError, match="no row with a known label"):
            world.source().frame("delay", day(3))


def assert_equal(one: TrainingSet, two: TrainingSet) -> None:
    """Fail unless two training sets have the same content."""
    assert one.table.equals(two.table)
    assert (one.service, one.features, one.until_us, dict(one.categories)) == (
        two.service,
        two.features,
        two.until_us,
        dict(two.categories),
    )
