"""Finding things: tables, features, models, services, runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One findable thing. `kind` is a word of the vocabulary; `facts` are shown beside it (owner, freshness, columns …)."""

    kind: str
    name: str
    description: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


class Catalog(Protocol):
    """Full-text search over entries.

    Guarantees, each checked by `tidemill.testing.catalog.CatalogContract`:
        newest wins: an entry put again replaces the one of the same kind and name.
        safe: any text is a query; what the engine would read as syntax is taken as words.
    """

    def put(self, entries: Iterable[Entry]) -> None:
        """Add or replace entries."""
        ...

    def search(self, text: str, *, kind: str | None = None, limit: int = 20) -> list[Entry]:
        """Entries whose name, description or facts hold every word of `text` (as prefixes), best first; an empty text lists all by name."""
        ...
