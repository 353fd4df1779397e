"""The embedded registry keeps its port's promises."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.ledger import schema
from tidemill.ledger.store import Ledger
from tidemill.registry.embedded import LedgerRegistry
from tidemill.registry.ports import ModelRegistry
from tidemill.testing.registry import ModelRegistryContract, Move, add
from tidemill.versioning.embedded import FileBlobStore


class TestLedgerRegistry(ModelRegistryContract):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        return Ledger(f"sqlite:///{tmp_path}/ledger.db")

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FileBlobStore:
        return FileBlobStore(tmp_path / "blobs")

    @pytest.fixture
    def registry(self, ledger: Ledger, blobs: FileBlobStore) -> ModelRegistry:
        return LedgerRegistry(ledger, blobs)

    @pytest.fixture
    def artifact(self, blobs: FileBlobStore) -> Callable[[str], str]:
        return lambda text: blobs.put(text.encode())

    @pytest.fixture
    def moves(self, ledger: Ledger) -> Callable[[], list[Move]]:
        def moves() -> list[Move]:
            found = [e.body for e in ledger.events_after(0) if e.kind == "model.alias"]
            return [(m["alias"], m["from"], m["to"], m["decision"]) for m in found]

        return moves

    def test_alias_moves_are_lineage(self, registry: ModelRegistry, artifact: Callable[[str], str], ledger: Ledger) -> None:
        add(registry, artifact("a"))
        add(registry, artifact("b"))
        for version, decision in ((1, "d1"), (2, "d2"), (2, "d2")):
            registry.set_alias("delay", "champion", version, decision_id=decision, at_us=8)
        edges = schema.lineage.c
        with ledger.read() as db:
            found = set(map(tuple, db.execute(sa.select(edges.source, edges.target, edges.role))))
        assert {("d2", "models:/delay/2", "alias:champion"), ("run-1", "models:/delay/1", "registered")} <= found
        assert {("sha256:d", "models:/delay/1", "trained_on"), ("landings@7", "sha256:d", "read")} <= found
