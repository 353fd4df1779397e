import pytest

from tidemill.features.embedded import DuckOfflineStore
from tidemill.features.ports import OfflineStore
from tidemill.testing.features import OfflineStoreContract


class TestDuckOfflineStore(OfflineStoreContract):
    @pytest.fixture
    def store(self) -> OfflineStore:
        return DuckOfflineStore()
