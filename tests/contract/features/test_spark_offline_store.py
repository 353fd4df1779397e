"""The guarantees of `OfflineStore` on a real Spark."""

import pytest
from tests.support.spark_session import spark_store

from tidemill.features.ports import OfflineStore
from tidemill.testing.features import OfflineStoreContract

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("spark")]


class TestSparkOfflineStore(OfflineStoreContract):
    share = 0.5
    at_once = True

    @pytest.fixture
    def store(self) -> OfflineStore:
        return spark_store()
