from pathlib import Path

import pytest

from tidemill.features.embedded import OnlineLookup, OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.ingestion.embedded import LogStream
from tidemill.testing.lookup import DEFINITIONS, FeatureLookupContract, Open


class TestOnlineLookup(FeatureLookupContract):
    @pytest.fixture
    def open_(self, tmp_path: Path) -> Open:
        def open_() -> tuple[ViewProcessor, OnlineReader, OnlineLookup, LogStream]:
            online, stream = SqliteOnlineStore(tmp_path / "online.db"), LogStream(tmp_path / "stream")
            return ViewProcessor(online, DEFINITIONS), OnlineReader(online, DEFINITIONS), OnlineLookup(online, DEFINITIONS, stream), stream

        return open_
