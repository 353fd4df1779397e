"""The embedded catalog keeps its port's promises."""

from pathlib import Path

import pytest

from tidemill.catalog.embedded import SqliteCatalog
from tidemill.catalog.ports import Catalog
from tidemill.testing.catalog import CatalogContract


class TestSqliteCatalog(CatalogContract):
    @pytest.fixture
    def catalog(self, tmp_path: Path) -> Catalog:
        return SqliteCatalog(tmp_path / "catalog.db")
