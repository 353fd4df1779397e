"""Contract suite of `FeatureLookup`: the values of a reader, with where they stand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tidemill.core.aggregates import count, latest
from tidemill.core.definitions import Definitions, Entity, FeatureView, Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import HOUR_US, SECOND_US, format_instant
from tidemill.features.ports import FeatureLookup, FeatureReader, Found, StreamProcessor
from tidemill.ingestion.ports import Stream
from tidemill.testing.contract import Contract

UTC_US = pa.timestamp("us", "UTC")
TAPS = Table("taps", "push:", event_time="happened", known_time="learned")
FLOW = FeatureView("flow", Entity("tap"), TAPS, [latest("litres", "word", ttl="2h"), count(over="1h", hop="5m")])
PAIRS = FeatureView("pairs", (Entity("tap"), Entity("lane")), TAPS, [latest("litres", ttl="1h")])
DEFINITIONS = Definitions(tables={"taps": TAPS}, views={"flow": FLOW, "pairs": PAIRS})
NOW = 1_700_000_000 * SECOND_US

Open = Callable[[], tuple[StreamProcessor, FeatureReader, FeatureLookup, Stream]]


def row(tap: int | None, at: int, litres: float | None, *, known: int | None = None, lane: str = "a", word: str = "x") -> dict[str, Any]:
    """A row of `taps`."""
    return {"tap": tap, "lane": lane, "happened": at, "learned": at if known is None else known, "litres": litres, "word": word}


def table(*rows: Mapping[str, Any]) -> pa.Table:
    """Rows as the processor takes them."""
    columns = {name: [r[name] for r in rows] for name in rows[0]}
    clocks = {name: pa.array(columns.pop(name), pa.int64()).cast(UTC_US) for name in ("happened", "learned")}
    return pa.table({**columns, **clocks})


def pushed(values: Mapping[str, Any]) -> bytes:
    """A row as it stands in the stream."""
    return json.dumps({**values, **{c: format_instant(values[c]) for c in ("happened", "learned")}}).encode()


class FeatureLookupContract(Contract):
    """Supply `open_`, which opens a processor, a reader, a look-up and a stream over one new online store."""

    @pytest.fixture
    def open_(self) -> Open:
        """Opens all four."""
        raise TypeError("supply an `open_` fixture")

    def test_equal_to_the_reader(self, open_: Open) -> None:
        processor, reader, lookup, _ = open_()
        processor.push("taps", table(*(row(i % 7, NOW - i * 400 * SECOND_US, float(i), lane="ab"[i % 2]) for i in range(60))))
        processor.advance(NOW)
        processor.commit()
        keys = [{"tap": i, "lane": lane} for i in range(9) for lane in "abc"]
        for at in (NOW, NOW + HOUR_US, NOW + 3 * HOUR_US):
            values = [{**a.values, **b.values} for a, b in lookup.find([FLOW, PAIRS], keys, at)]
            assert values == reader.read([FLOW, PAIRS], keys, at)

    def test_told_apart_what_is_unknown_null_and_too_old(self, open_: Open) -> None:
        processor, _, lookup, _ = open_()
        processor.push("taps", table(row(1, NOW - HOUR_US, None), row(2, NOW - 100 * HOUR_US, 2.0), row(3, NOW + HOUR_US, 3.0)))
        processor.advance(NOW)
        processor.commit()

        def found(tap: int | None, at: int = NOW) -> Found:
            return lookup.find([FLOW], [{"tap": tap}], at)[0][0]

        assert (found(1).known, found(1).event_us, found(1).values["flow__litres"]) == (True, NOW - HOUR_US, None)
        assert not found(4).known
        assert not found(None).known
        assert not found(3).known, "its row has not happened"
        assert found(3, NOW + HOUR_US).known
        late = found(1, NOW + 2 * HOUR_US)
        assert (late.known, late.values["flow__word"], late.event_us) == (True, None, NOW - HOUR_US)

    def test_fresh_rows_count_before_the_processor_has_them(self, open_: Open) -> None:
        processor, _, lookup, stream = open_()
        processor.push("taps", table(row(1, NOW - HOUR_US, 1.0), row(2, NOW - 10 * SECOND_US, 2.0)))
        processor.commit()
        assert lookup.find([FLOW], [{"tap": 1}], NOW)[0][0].values["flow__litres"] == 1.0
        rows = [row(1, NOW - SECOND_US, 7.0, word="new"), row(2, NOW - 20 * SECOND_US, 8.0), row(9, NOW - SECOND_US, None)]
        ahead = [row(2, NOW + SECOND_US, 9.0), row(2, NOW - SECOND_US, 10.0, known=NOW + HOUR_US)]
        stream.append("taps", [pushed(r) for r in [*rows, *ahead]])
        lookup.look()

        def litres(tap: int, at: int = NOW) -> Any:
            return lookup.find([FLOW], [{"tap": tap}], at)[0][0].values["flow__litres"]

        assert (litres(1), litres(2)) == (7.0, 2.0), "the newest counts, an older one does not"
        assert litres(2, NOW + SECOND_US) == 9.0, "from when it happens"
        assert lookup.find([FLOW], [{"tap": 9}], NOW)[0][0][1:] == (NOW - SECOND_US, True)
        assert lookup.find([PAIRS], [{"tap": 1, "lane": "a"}], NOW)[0][0].values == {"pairs__litres": 7.0}
        assert litres(1, NOW + 3 * HOUR_US) is None, "the ttl holds for it too"
        processor.push("taps", table(*rows))
        processor.commit()
        assert (litres(1), litres(2)) == (7.0, 2.0), "taken twice is taken once"

    def test_fresh_skips_what_cannot_be_read(self, open_: Open) -> None:
        _, _, lookup, stream = open_()
        stream.append("taps", [b"{", b"[]", b'{"tap": 1}', pushed({**row(1, NOW, 1.0), "tap": [1]}), pushed(row(1, NOW, 5.0))])
        lookup.look()
        assert lookup.find([FLOW], [{"tap": 1}], NOW)[0][0].values["flow__litres"] == 5.0

    def test_fresh_is_nothing_that_is_quarantined(self, open_: Open) -> None:
        """A row that came ahead of its time by more than an hour never counts, not even when the time has come."""
        _, _, lookup, stream = open_()
        stream.append("taps", [pushed(row(1, NOW, 5.0))])
        came = stream.read("taps", 0)[0].at_us
        stream.append("taps", [pushed(row(1, came + 2 * HOUR_US, 9.0)), pushed(row(2, NOW, 9.0, known=came + 2 * HOUR_US))])
        lookup.look()
        later = came + 3 * HOUR_US
        values = [found[0].values["flow__litres"] for found in lookup.find([FLOW], [{"tap": 1}, {"tap": 2}], later)]
        assert values == [None, None]

    def test_a_key_that_is_lacking_is_refused(self, open_: Open) -> None:
        _, _, lookup, _ = open_()
        with pytest.raises(InvalidError, match="lacks 'lane'"):
            lookup.find([PAIRS], [{"tap": 1}], NOW)
        other = replace(FLOW, features=[latest("litres", ttl="1h")])
        with pytest.raises(InvalidError, match="flow"):
            lookup.find([other], [{"tap": 1}], NOW)
