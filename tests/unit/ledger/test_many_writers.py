"""32 processes write to one ledger at once."""

import multiprocessing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.testing.ledger import _value, _work

PROCESSES, TURNS = 32, 15


@pytest.mark.slow
def test_32_processes_lose_nothing_and_see_no_lock(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(url, number, TURNS)) for number in range(PROCESSES)]
    for worker in workers:  # the ledger is new: they also race to make its tables
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    ledger = Ledger(url)
    assert _value(ledger) == PROCESSES * TURNS
    with ledger.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(schema.metric)).scalar() == PROCESSES * TURNS
