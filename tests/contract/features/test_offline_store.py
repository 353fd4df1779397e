import pytest

from tidemill.features.embedded import DuckOfflineStore
from tidemill.features.ports import OfflineStore
from tidemill.testing.features import OfflineStoreContract


class TestDuckOfflineStore(OfflineStoreContract):
    @pytest.fixture
    def store(self) -> OfflineStore:
        return DuckOfflineStore()


class TestDuckOfflineStoreInParts(OfflineStoreContract):
    """The same for tables that go through memory in parts."""

    share = 0.2

    @pytest.fixture
    def store(self) -> OfflineStore:
        return DuckOfflineStore(rows_at_once=3)
