from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tidemill.ingestion.embedded import LogStream
from tidemill.ingestion.ports import Stream
from tidemill.testing.ingestion import StreamContract


class TestLogStream(StreamContract):
    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Stream]:
        return partial(LogStream, tmp_path / "stream")

    @pytest.fixture
    def stream(self, reopen: Callable[[], Stream]) -> Stream:
        return reopen()
