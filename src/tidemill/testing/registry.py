"""What every `ModelRegistry` must keep."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.registry.ports import ModelRegistry, ModelVersion
from tidemill.testing.contract import Contract, keeps

Move = tuple[str, int | None, int, str]
META = {"dataset": "sha256:d", "snapshots": {"landings": 7}, "trained_until_us": 3}


def add(registry: ModelRegistry, digest: str, run: str = "run-1", name: str = "delay", at_us: int = 5) -> ModelVersion:
    """Register a directory."""
    return registry.register(name, digest, run_id=run, metrics={"log_loss": 0.5}, meta=META, at_us=at_us)


class ModelRegistryContract(Contract):
    """Supply `registry`, `artifact(text)`, which keeps a model directory with that text and answers its digest, and `moves`.

    `moves()` answers what the registry's record says of an alias's moves, oldest first: (alias, from or None, to, decision).
    """

    @keeps("gapless")
    def test_versions_count_from_one_by_name(self, registry: ModelRegistry, artifact: Callable[[str], str]) -> None:
        assert [add(registry, artifact(t)).version for t in "abc"] == [1, 2, 3]
        assert add(registry, artifact("a"), name="other").version == 1
        assert [v.version for v in registry.versions("delay")] == [3, 2, 1]
        assert len(registry.versions()) == 4

    def test_a_version_says_what_was_registered(self, registry: ModelRegistry, artifact: Callable[[str], str]) -> None:
        digest = artifact("a")
        added = add(registry, digest)
        assert added == registry.get("delay", 1) == registry.get("delay", "1")
        assert (added.digest, added.run_id, added.status, added.at_us) == (digest, "run-1", "registered", 5)
        assert added.metrics == {"log_loss": 0.5}
        assert added.meta == META
        assert added.uri == "models:/delay/1"

    @keeps("idempotent")
    def test_the_same_directory_of_the_same_run_is_one_version(self, registry: ModelRegistry, artifact: Callable[[str], str]) -> None:
        first = add(registry, artifact("a"))
        assert add(registry, artifact("a"), at_us=9) == first
        assert add(registry, artifact("a"), run="run-2").version == 2
        assert add(registry, artifact("b")).version == 3

    @keeps("gapless")
    def test_versions_have_no_gaps_under_concurrent_writers(self, registry: ModelRegistry, artifact: Callable[[str], str]) -> None:
        digests = [artifact(str(i)) for i in range(8)]
        threads = [threading.Thread(target=lambda n=n: [add(registry, d, run=f"run-{n}") for d in digests]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [v.version for v in registry.versions("delay")] == list(range(32, 0, -1))

    def test_a_directory_that_is_not_kept_is_refused(self, registry: ModelRegistry) -> None:
        with pytest.raises(NotFoundError):
            add(registry, "sha256:" + "0" * 64)
        assert registry.versions("delay") == []

    @keeps("movable")
    def test_an_alias_points_at_one_version_and_moves(self, registry: ModelRegistry, artifact: Callable[[str], str]) -> None:
        for text in "ab":
            add(registry, artifact(text))
        registry.set_alias("delay", "champion", 1, decision_id="d1", at_us=6)
        registry.set_alias("delay", "challenger", 2, decision_id="d2", at_us=7)
        assert registry.get("delay", "champion").aliases == ("champion",)
        registry.set_alias("delay", "champion", 2, decision_id="d3", at_us=8)
        assert registry.get("delay", "champion").version == 2
        assert registry.get("delay", 2).aliases == ("challenger", "champion")
        assert registry.get("delay", 1).aliases == ()

    def test_movable_by_a_decision_and_with_its_history(
        self, registry: ModelRegistry, artifact: Callable[[str], str], moves: Callable[[], list[Move]]
    ) -> None:
        for text in "ab":
            add(registry, artifact(text))
        for version, decision in ((1, "d1"), (2, "d2"), (2, "d2"), (1, "d3")):
            registry.set_alias("delay", "champion", version, decision_id=decision, at_us=8)
        wanted = [("champion", None, 1, "d1"), ("champion", 1, 2, "d2"), ("champion", 2, 1, "d3")]
        assert moves() == wanted
        with pytest.raises(InvalidError, match="decision"):
            registry.set_alias("delay", "champion", 2, decision_id="", at_us=9)
        assert registry.get("delay", "champion").version == 1
        assert moves() == wanted

    def test_a_status_is_kept(self, registry: ModelRegistry, artifact: Callable[[str], str]) -> None:
        add(registry, artifact("a"))
        registry.set_status("delay", 1, "retired")
        assert registry.get("delay", 1).status == "retired"

    def test_what_does_not_exist_is_named_with_what_does(self, registry: ModelRegistry, artifact: Callable[[str], str]) -> None:
        add(registry, artifact("a"))
        with pytest.raises(NotFoundError, match="delay"):
            registry.get("dela", 1)
        with pytest.raises(NotFoundError):
            registry.get("delay", 2)
        with pytest.raises(NotFoundError):
            registry.get("delay", "champion")
        with pytest.raises(NotFoundError):
            registry.set_alias("delay", "champion", 2, decision_id="d", at_us=1)
        with pytest.raises(NotFoundError):
            registry.set_status("delay", 2, "retired")
