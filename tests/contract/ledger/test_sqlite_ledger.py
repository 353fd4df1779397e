"""A ledger in SQLite keeps its promises."""

from pathlib import Path

import pytest

from tidemill.testing.ledger import LedgerContract


class TestSqliteLedger(LedgerContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/ledger.db"
