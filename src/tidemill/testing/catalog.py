"""What every `Catalog` must keep."""

from __future__ import annotations

import pytest

from tidemill.catalog.ports import Catalog, Entry
from tidemill.core.errors import NotFoundError
from tidemill.testing.contract import Contract

ENTRIES = (
    Entry("table", "landings", "When flights came down, and how late", {"owner": "airline-ops", "columns": "arr_delay, air_time"}),
    Entry("table", "weather", "Hourly observations at the origin", {"owner": "airline-ops"}),
    Entry("feature view", "traffic", "Departure delays at the origin", {"table": "departures"}),
    Entry("model", "flight-delay", "Späte Flüge", {"run": "run-12ab"}),
    Entry("service", "flight-delay", "Is this flight late?", {}),
)
NASTY = (
    '"',
    "'",
    "(",
    ")",
    "* OR *",
    'a" OR "b',
    'late"',
    "NEAR(a b)",
    "name:x",
    "-",
    "^late",
    "a AND",
    "{",
    "\x00late",
    "😀",
    "%",
    "_",
    "; DROP TABLE entry",
    "a" * 5000,
)


class CatalogContract(Contract):
    """Supply `catalog`: an empty one."""

    @pytest.fixture
    def catalog(self) -> Catalog:
        """An empty catalog."""
        raise NotFoundError("supply a catalog fixture")

    @pytest.fixture
    def filled(self, catalog: Catalog) -> Catalog:
        """One that has `ENTRIES`."""
        catalog.put(ENTRIES)
        return catalog

    def test_newest_wins(self, filled: Catalog) -> None:
        filled.put([Entry("table", "weather", "Replaced", {"owner": "someone"})])
        assert filled.search("observations") == []
        assert filled.search("replaced") == [Entry("table", "weather", "Replaced", {"owner": "someone"})]
        assert len(filled.search("")) == len(ENTRIES)

    @pytest.mark.parametrize("text", NASTY)
    def test_safe(self, filled: Catalog, text: str) -> None:
        assert isinstance(filled.search(text), list)
        filled.put([Entry("table", text, text, {text: text})])
        assert Entry("table", text, text, {text: text}) in filled.search("", limit=100)

    def test_words_that_engines_read_as_syntax(self, catalog: Catalog) -> None:
        catalog.put([Entry("table", "or-not", "delays and near misses")])
        catalog.put([Entry("table", 'six"inches', "long")])
        assert [e.name for e in catalog.search('six"inch')] == ['six"inches']
        for text in ("or", "AND", "near", "NOT", "or-not", "delays AND near"):
            assert [e.name for e in catalog.search(text)] == ["or-not"], text

    def test_every_word_as_a_prefix(self, filled: Catalog) -> None:
        assert [e.name for e in filled.search("airl obs")] == ["weather"]
        assert filled.search("airline tomorrow") == []
        assert [e.name for e in filled.search("arr_del")] == ["landings"]
        assert [e.name for e in filled.search("spate")] == ["flight-delay"]
        assert [e.kind for e in filled.search("RUN-12")] == ["model"]

    def test_names_come_before_descriptions(self, filled: Catalog) -> None:
        filled.put([Entry("table", "late", "x"), Entry("table", "zz", "late late late late")])
        assert filled.search("late")[0].name == "late"

    def test_kind_and_limit(self, filled: Catalog) -> None:
        assert {e.kind for e in filled.search("flight-delay")} == {"model", "service"}
        assert [e.kind for e in filled.search("flight-delay", kind="model")] == ["model"]
        assert [e.name for e in filled.search("", kind="table")] == ["landings", "weather"]
        assert len(filled.search("", limit=2)) == 2
