"""Model versions, aliases and the artifact behind them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered model. `digest` addresses its MLflow Model directory in the blob store; `meta` holds signature, snapshots, training window."""

    name: str
    version: int
    digest: str
    run_id: str
    status: str
    at_us: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """`models:/name/version`, as MLflow spells it."""
        return f"models:/{self.name}/{self.version}"


class ModelRegistry(Protocol):
    """Model versions by name.

    Guarantees, each checked by `tidemill.testing.registry.ModelRegistryContract`:
        gapless: versions of a name count 1, 2, 3 … also under concurrent writers.
        idempotent: the same digest from the same run is one version.
        movable: an alias points at one version; moving it needs the decision that says so and keeps the history.
    """

    def register(
        self, name: str, digest: str, *, run_id: str, metrics: Mapping[str, float], meta: Mapping[str, Any], at_us: int
    ) -> ModelVersion:
        """Add a version (or return the one there is)."""
        ...

    def get(self, name: str, version: int | str) -> ModelVersion:
        """A version by number or alias. Raises `NotFoundError`."""
        ...

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """All versions of a name (or of all), newest first."""
        ...

    def set_alias(self, name: str, alias: str, version: int, *, decision_id: str, at_us: int) -> None:
        """Point `alias` at `version`. Raises `InvalidError` without a decision, `NotFoundError`."""
        ...

    def set_status(self, name: str, version: int, status: str) -> None:
        """Record what became of a version."""
        ...
