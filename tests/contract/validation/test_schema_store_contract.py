from pathlib import Path

import pytest

from tidemill.testing.validation import SchemaStoreContract
from tidemill.validation.embedded import YamlSchemaStore
from tidemill.validation.ports import SchemaStore


class TestYamlSchemaStore(SchemaStoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "schemas"

    @pytest.fixture
    def store(self, _folder: None) -> SchemaStore:
        return YamlSchemaStore(self.folder)

    def edit(self, store: SchemaStore, table: str) -> None:
        path = self.folder / f"{table}.yaml"
        path.write_text(path.read_text().replace("allow_new_columns: true", "allow_new_columns: false"))
