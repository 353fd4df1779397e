from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tidemill.core.definitions import Definitions
from tidemill.features.embedded import SqliteOnlineStore, ViewProcessor
from tidemill.features.ports import BulkProcessor
from tidemill.testing.features import BulkStoreContract, GridStoreContract
from tidemill.testing.processors import BulkProcessorContract, StreamProcessorContract
from tidemill.testing.reference import DEFINITIONS


class TestSqliteOnlineStore(BulkStoreContract, GridStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], SqliteOnlineStore]:
        return partial(SqliteOnlineStore, tmp_path / "online.db")


def open_view_processor(path: Path) -> ViewProcessor:
    return ViewProcessor(SqliteOnlineStore(path), DEFINITIONS)


class TestViewProcessor(BulkProcessorContract, StreamProcessorContract):
    @pytest.fixture
    def open_processor(self, tmp_path: Path) -> Callable[..., BulkProcessor]:
        last = [tmp_path / "none"]

        def open_(*, fresh: bool = False, definitions: Definitions = DEFINITIONS) -> BulkProcessor:
            if fresh:
                last[0] = tmp_path / uuid4().hex
            return ViewProcessor(SqliteOnlineStore(last[0]), definitions)

        return open_

    @pytest.fixture
    def open_elsewhere(self, tmp_path: Path) -> Callable[[], BulkProcessor]:
        return partial(open_view_processor, tmp_path / "elsewhere.db")
