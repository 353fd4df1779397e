"""The embedded executor keeps its port's promises."""

from pathlib import Path

import pytest

from tidemill.core.clock import ReplayClock
from tidemill.ledger.store import Ledger
from tidemill.pipelines.codecs import default_codecs
from tidemill.pipelines.embedded import LocalExecutor
from tidemill.pipelines.ports import Executor
from tidemill.testing.pipelines import ExecutorContract
from tidemill.versioning.embedded import FileBlobStore


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, ledger: Ledger, tmp_path: Path) -> Executor:
        return LocalExecutor(ledger, FileBlobStore(tmp_path / "blobs"), default_codecs(), ReplayClock(1_000_000), {})
