"""The embedded tracker keeps its port's promises."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, insert_once
from tidemill.testing.tracking import Begin, TrackerContract
from tidemill.tracking.embedded import LedgerTracker
from tidemill.tracking.ports import Tracker

REST = {
    "pipeline": "p",
    "service": "",
    "cause_id": "c",
    "status": "finished",
    "params": "{}",
    "graph": "{}",
    "code": "{}",
    "environment": "{}",
}


class TestLedgerTracker(TrackerContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/ledger.db"

    @pytest.fixture
    def tracker(self, url: str) -> Tracker:
        return LedgerTracker(Ledger(url))

    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], Tracker]:
        return lambda: LedgerTracker(Ledger(url))

    @pytest.fixture
    def begin(self, url: str) -> Begin:
        ledger = Ledger(url)

        def add(run_id: str, started_us: int) -> None:
            with ledger.write() as db:
                insert_once(db, schema.run, {"id": run_id, "started_us": started_us, **REST})

        return add
