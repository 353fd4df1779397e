"""Killed between any two steps and started again, ingestion ends where it would have ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import sqlalchemy as sa
from tests.support.ingestion_kit import World, rows_of

from tidemill.ledger.store import Ledger
from tidemill.versioning.ports import TableStore


class KilledError(BaseException):
    """As kill -9: nobody catches it."""


class Fuse:
    """Counts steps, and kills before or after the chosen one."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def around(self, step: Callable[[], Any]) -> Any:
        self._burn()
        result = step()
        self._burn()
        return result

    def _burn(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise KilledError


class FragileTables:
    def __init__(self, tables: TableStore, fuse: Fuse) -> None:
        self._tables, self._fuse = tables, fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._tables, name)
        return lambda *args, **kwargs: self._fuse.around(lambda: method(*args, **kwargs))


class FragileLedger:
    def __init__(self, ledger: Ledger, fuse: Fuse) -> None:
        self._ledger, self._fuse = ledger, fuse

    read = property(lambda self: self._ledger.read)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        self._fuse.around(lambda: None)
        with self._ledger.write() as db:
            yield db
            self._fuse.around(lambda: None)
        self._fuse.around(lambda: None)


def _fill(world: World) -> None:
    world.put("1970-01-11.parquet", rows_of(10))
    world.put("1970-01-12.parquet", rows_of(11, delay=[1e6] * 3))
    world.put("1970-01-13.parquet", rows_of(12).rename_columns(["stop", "late", "at", "seen_at"]))
    world.put("1970-01-14.parquet", b"nothing")
    world.put("1970-01-15.parquet", rows_of(14))


def _killed(world: World, at: int) -> int:
    """Ingest with a fuse; return how many steps were taken."""
    fuse = Fuse(at)
    try:
        world.ingest(tables=cast("TableStore", FragileTables(world.tables, fuse)), ledger=cast("Ledger", FragileLedger(world.ledger, fuse)))
    except KilledError:
        world.open()
    return fuse.steps


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_anywhere_nothing_is_lost_or_done_twice(another: Callable[[str], World], stride: int) -> None:
    calm = another("calm")
    _fill(calm)
    steps = _killed(calm, -1)
    wanted = calm.state()
    assert len(wanted["batch"]) == 5
    assert steps > 40
    for at in range(1, steps + 1, stride):
        world = another(f"killed-{at}")
        _fill(world)
        assert _killed(world, at) == at
        world.ingest()
        assert world.state() == wanted, f"killed at step {at} of {steps}"


def test_killed_again_and_again(another: Callable[[str], World]) -> None:
    calm, world = another("calm"), another("beaten")
    for each in (calm, world):
        _fill(each)
    calm.ingest()
    for at in (9, 2, 7, 4, 12, 3, 8, 5, 11, 6):
        _killed(world, at)
    world.ingest()
    assert world.state() == calm.state()
