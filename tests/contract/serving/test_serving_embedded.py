from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tidemill.core.clock import ReplayClock
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, insert_once
from tidemill.serving.archive import archive, as_table
from tidemill.serving.archived import ArchivedLog
from tidemill.serving.embedded import LedgerRouter, OnnxRuntime, SqlitePredictionLog
from tidemill.serving.keeping import table_of
from tidemill.serving.ports import Deployment, Prediction, PredictionLog, Router, Runtime
from tidemill.testing.serving import PredictionLogContract, RouterContract, RuntimeContract
from tidemill.versioning.embedded import IcebergTableStore


class TestOnnxRuntime(RuntimeContract):
    @pytest.fixture
    def runtime(self) -> Runtime:
        return OnnxRuntime()


class TestLedgerRouter(RouterContract):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        return Ledger(f"sqlite:///{tmp_path}/ledger.db")

    @pytest.fixture
    def router(self, ledger: Ledger) -> Router:
        return LedgerRouter(ledger)

    @pytest.fixture
    def deploy(self, ledger: Ledger) -> Callable[[Sequence[Deployment]], None]:
        def deploy(deployments: Sequence[Deployment]) -> None:
            with ledger.write() as db:
                db.execute(sa.delete(schema.deployment))
                for d in deployments:
                    version = {"name": d.model, "version": d.version, "digest": d.digest, "run_id": "run", "status": "registered"}
                    insert_once(db, schema.model_version, {**version, "metrics": "{}", "meta": "{}", "at_us": 1})
                    where = {"id": d.id, "service": d.service, "model": d.model, "version": d.version, "role": d.role, "weight": d.weight}
                    times = {"stage": 0, "decision_id": "decision", "since_us": d.since_us, "started_us": d.since_us}
                    insert_once(db, schema.deployment, {**where, **times})

        return deploy


class TestSqlitePredictionLog(PredictionLogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> PredictionLog:
        return SqlitePredictionLog(tmp_path / "predictions.db")

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], PredictionLog]:
        return partial(SqlitePredictionLog, tmp_path / "predictions.db")


class TestJournal(PredictionLogContract):
    """As a server writes."""

    @pytest.fixture
    def log(self, tmp_path: Path) -> PredictionLog:
        return SqlitePredictionLog(tmp_path / "predictions.db", ahead=True)

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], PredictionLog]:
        return partial(SqlitePredictionLog, tmp_path / "predictions.db", ahead=True)


class _Archiving(ArchivedLog):
    """Archives whatever is there before each look at it."""

    def __init__(self, folder: Path) -> None:
        self._own = SqlitePredictionLog(folder / "predictions.db")
        self._lake = IcebergTableStore(folder / "lake", f"sqlite:///{folder}/lake/catalog.db", ReplayClock(1))
        super().__init__(self._own, lambda: self._lake)

    def _move(self) -> None:
        for service in ("svc", "other"):
            archive(self._own, self._lake, service, until_us=2**62, piece=70)

    def read(self, service: str, **window: Any) -> Iterator[Prediction]:
        self._move()
        yield from super().read(service, **window)

    def thin(self, batch: str) -> None:
        for service in ("svc", "other"):
            name, rows = self._own.claim(service, until_us=0, limit=1)
            if name == batch and rows:
                self._lake.create(table_of(service), as_table(rows).schema)
                self._lake.append(table_of(service), as_table(rows), batch=batch, branch="main")
        super().thin(batch)

    def find(self, prediction_id: str) -> list[Prediction]:
        self._move()
        return super().find(prediction_id)


class TestArchivedLog(PredictionLogContract):
    """Every guarantee holds for rows that are in the archive."""

    @pytest.fixture
    def log(self, tmp_path: Path) -> PredictionLog:
        return _Archiving(tmp_path)

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], PredictionLog]:
        return partial(_Archiving, tmp_path)

    def check_thin(self, log: PredictionLog, rows: Sequence[Prediction]) -> None:
        assert list(log.read("svc"))[: len(rows)] == list(rows)
