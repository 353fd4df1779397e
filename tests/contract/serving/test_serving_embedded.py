from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, insert_once
from tidemill.serving.embedded import LedgerRouter, OnnxRuntime, SqlitePredictionLog
from tidemill.serving.ports import Deployment, PredictionLog, Router, Runtime
from tidemill.testing.serving import PredictionLogContract, RouterContract, RuntimeContract


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
