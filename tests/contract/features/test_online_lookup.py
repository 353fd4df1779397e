from pathlib import Path

import pytest

from tidemill.features.embedded import OnlineLookup, OnlineReader, SqliteOnlineStore, TileProcessor
from tidemill.ingestion.embedded import LogStream
from tidemill.testing.lookup import DEFINITIONS, FeatureLookupContract, Open


class TestOnlineLookup(FeatureLookupContract):
    @pytest.fixture
    def open_(self, tmp_path: Path) -> Open:
        def open_() -> tuple[TileProcessor, OnlineReader, OnlineLookup, LogStream]:
            online, stream = SqliteOnlineStore(tmp_path / "online.db"), LogStream(tmp_path / "stream")
            return TileProcessor(online, DEFINITIONS), OnlineReader(online, DEFINITIONS), OnlineLookup(online, DEFINITIONS, stream), stream

        return open_
