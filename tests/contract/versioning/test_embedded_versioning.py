"""The embedded stores keep their ports' promises."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tidemill.core.clock import ReplayClock
from tidemill.testing.versioning import BlobStoreContract, TableStoreContract
from tidemill.versioning.embedded import FileBlobStore, IcebergTableStore
from tidemill.versioning.ports import BlobStore, TableStore


class TestIcebergTableStore(TableStoreContract):
    @pytest.fixture
    def store(self, clock: ReplayClock, tmp_path: Path) -> TableStore:
        return IcebergTableStore(tmp_path / "lake", f"sqlite:///{tmp_path}/catalog.db", clock)

    @pytest.fixture
    def reopen(self, clock: ReplayClock, tmp_path: Path) -> Callable[[], TableStore]:
        return partial(IcebergTableStore, tmp_path / "lake", f"sqlite:///{tmp_path}/catalog.db", clock)


class TestFileBlobStore(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return FileBlobStore(tmp_path / "blobs")

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], BlobStore]:
        return partial(FileBlobStore, tmp_path / "blobs")
