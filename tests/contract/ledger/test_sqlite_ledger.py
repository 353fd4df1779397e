"""A ledger in SQLite keeps its promises."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tidemill.ledger.opening import sqlite_path
from tidemill.testing.ledger import LedgerContract


class TestSqliteLedger(LedgerContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/ledger.db"

    @pytest.fixture
    def away(self) -> Callable[[str], AbstractContextManager[None]]:
        return _moved


@contextmanager
def _moved(url: str) -> Iterator[None]:
    """The file alone is moved away, and nothing stands in its place when it comes back."""
    path = sqlite_path(url)
    assert path is not None
    aside = path.rename(path.with_name("elsewhere"))
    yield
    assert not path.exists()
    aside.rename(path)
