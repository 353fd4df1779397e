"""What a reader answers when the store is empty, of other definitions, swept, or not there."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.core.aggregates import count, expression, latest, mean
from tidemill.core.definitions import Definitions, Entity, FeatureView, Table
from tidemill.core.digests import PREFIX
from tidemill.core.errors import InvalidError, LostError, UnavailableError
from tidemill.core.instants import DAY_US, parse_duration
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore, ViewProcessor
from tidemill.features.ports import MAX_KEYS, MAX_VALUE_BYTES, OnlineStore
from tidemill.versioning.ports import Scan

MINUTE = parse_duration("1m")
TRIPS = Table("trips", "files:trips", "left_at", "recorded_at", key="trip")
BUSY = FeatureView("busy", Entity("place"), TRIPS, [mean("delay", over="1h", hop="5m"), count(over="1h", hop="5m")])
LAST = FeatureView("last", Entity("place"), TRIPS, [latest("delay", "word", ttl="2h")])
BOTH = Definitions(views={v.name: v for v in (BUSY, LAST)})
NOTHING = {"busy__delay_mean_1h": None, "busy__count_1h": 0, "last__delay": None, "last__word": None}


def trips(*rows: tuple[str, str, int, float], word: str = "w") -> pa.Table:
    """(trip, place, minute, delay)."""
    names, places, minutes, delays = ([*c] for c in zip(*rows, strict=True))
    when = pa.array([m * MINUTE for m in minutes], pa.int64()).cast(pa.timestamp("us", "UTC"))
    columns = {"trip": names, "place": places, "delay": delays, "word": [word] * len(rows)}
    return pa.table({**columns, "left_at": when, "recorded_at": when})


def begin(store: OnlineStore) -> ViewProcessor:
    """A processor that has one row, of nobody we ask for."""
    processor = ViewProcessor(store, BOTH)
    processor.push("trips", trips(("w", "nobody", 1, 1.0)))
    processor.commit()
    return processor


def ask(reader: OnlineReader | ViewProcessor, minute: int, *places: str | None) -> list[dict[str, Any]]:
    return reader.read([BUSY, LAST], [{"place": p} for p in places], minute * MINUTE)


def test_nothing_is_answered_from_a_store_that_was_never_filled(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    reader = OnlineReader(store, BOTH)
    with pytest.raises(InvalidError, match="has never been materialized"):
        ask(reader, 1, "a")
    begin(store)
    assert ask(reader, 1, "a", None) == [NOTHING, NOTHING]


def test_requests_for_many_keys_are_limited(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    begin(store)
    reader = OnlineReader(store, BOTH)
    assert ask(reader, 1, *(str(i) for i in range(2000))) == [NOTHING] * 2000
    with pytest.raises(InvalidError, match=f"100000 keys in one read; ask for {MAX_KEYS} at most"):
        ask(reader, 1, *(str(i) for i in range(100_000)))


def test_each_request_gets_its_own_answer_also_beside_keys_that_are_null_unknown_or_of_other_names(tmp_path: Path) -> None:
    """Views with one key, with another one and with two; rows whose ttl is over, or that wait for their time; a time before the writer's."""
    word = FeatureView("word", Entity("word"), TRIPS, [latest("delay", ttl="10m")])
    pair = FeatureView("pair", (Entity("place"), Entity("word")), TRIPS, [latest("delay", ttl="2h")])
    all_ = Definitions(views={v.name: v for v in (LAST, word, pair, BUSY)})
    store = SqliteOnlineStore(tmp_path / "o.db")
    processor, reader = ViewProcessor(store, all_), OnlineReader(store, all_)
    processor.push("trips", trips(("x", "a", 1, 2.0), ("y", "b", 30, 3.0), ("z", "c", 40, 5.0)))
    processor.push("trips", trips(("v", "b", 3, 7.0), word="v"))
    processor.commit()
    requests = [{"place": p, "word": w} for p in ("a", None, "b", "nobody", "c") for w in ("w", None, "v")]
    views, together = list(all_.views.values()), list[dict[str, Any]]()
    for minute in (3, 2, 35):
        processor.read(views, requests, minute * MINUTE)
        processor.commit()
        together = reader.read(views, requests, minute * MINUTE)
        assert together == processor.read(views, requests, minute * MINUTE)
        assert together == [reader.read(views, [request], minute * MINUTE)[0] for request in requests]
    found = [(a["last__delay"], a["word__delay"], a["pair__delay"], a["busy__count_1h"]) for a in together]
    assert found[:3] == [(2.0, 3.0, 2.0, 1), (2.0, None, None, 1), (2.0, None, None, 1)]
    assert found[3:9] == [
        (None, 3.0, None, 0), (None, None, None, 0), (None, None, None, 0),
        (3.0, 3.0, 3.0, 2), (3.0, None, None, 2), (3.0, None, 7.0, 2),
    ]  # fmt: skip
    assert found[9:] == [(None, 3.0, None, 0), (None, None, None, 0), (None, None, None, 0)] * 2


def test_newest_values_with_ttls_of_their_own_and_expressions_over_them(tmp_path: Path) -> None:
    """Each value is null once it is too old, and so is what is computed from it."""
    view = FeatureView(
        "mixed", Entity("place"), TRIPS, [latest("delay", ttl="10m"), latest("word", ttl="2h"), expression("twice", "delay * 2")]
    )
    store, both = SqliteOnlineStore(tmp_path / "o.db"), Definitions(views={"mixed": view, "last": LAST})
    processor, reader = ViewProcessor(store, both), OnlineReader(store, both)
    processor.push("trips", trips(("x", "a", 1, 2.0), ("y", "b", 3, 3.0)))
    processor.commit()
    found = []
    for minute in (3, 11, 12, 121, 122):
        answers = reader.read([view, LAST], [{"place": "a"}, {"place": "nobody"}], minute * MINUTE)
        assert answers == processor.read([view, LAST], [{"place": "a"}, {"place": "nobody"}], minute * MINUTE)
        found.append([answers[0][f"mixed__{name}"] for name in ("delay", "word", "twice")])
    assert found == [[2.0, "w", 4.0], [2.0, "w", 4.0], [None, "w", None], [None, "w", None], [None, None, None]]


@pytest.mark.parametrize("bulk", [False, True])
def test_a_key_of_another_type_is_refused_and_not_answered_as_unknown(tmp_path: Path, *, bulk: bool) -> None:
    lane = FeatureView("lane", Entity("lane"), TRIPS, [latest("delay", ttl="2h")])
    both = FeatureView("both", (Entity("place"), Entity("lane")), TRIPS, [latest("delay", ttl="2h")])
    all_ = Definitions(views={"lane": lane, "both": both})
    store = SqliteOnlineStore(tmp_path / "o.db")
    processor = ViewProcessor(store, all_)
    rows = trips(("x", "a", 1, 2.0), ("y", "b", 3, 3.0)).append_column("lane", pa.array([7, 8]))
    if bulk:
        pq.write_table(rows, tmp_path / "rows.parquet")
        for state in processor.versions():
            processor.load(state.digest, Scan("trips", 1, rows.schema, (str(tmp_path / "rows.parquet"),)), at_us=5 * MINUTE)
        processor.commit()
        processor.publish({state.digest: True for state in processor.versions()})
    else:
        processor.push("trips", rows)
        processor.commit()
    reader = OnlineReader(SqliteOnlineStore(tmp_path / "o.db"), all_)
    answers = reader.read([lane, both], [{"place": "a", "lane": key} for key in (7, 7.0, None, math.nan, 9)], 5 * MINUTE)
    assert [(a["lane__delay"], a["both__delay"]) for a in answers] == [(2.0, 2.0), (2.0, 2.0), (None, None), (None, None), (None, None)]
    with pytest.raises(InvalidError, match="the key 'lane' of feature view 'lane' is int64; request 1 has a text: '7'"):
        reader.read([lane], [{"lane": 7}, {"lane": "7"}], 5 * MINUTE)
    for wrong, told in (
        ({"place": 7, "lane": 7}, "'place' .* is string; request 0 has a whole number: 7"),
        ({"place": "a", "lane": True}, "true or false"),
    ):
        with pytest.raises(InvalidError, match=told):
            reader.read([both], [wrong], 5 * MINUTE)


def test_views_whose_rows_have_the_key_in_other_types_each_refuse_what_they_do_not_have(tmp_path: Path) -> None:
    """Two tables call a column the same, one has whole numbers in it and one texts: a request that fits the first is not unknown to the second."""
    counted = Table("counted", "files:counted", "left_at", "recorded_at", key="trip")
    texts = FeatureView("texts", Entity("place"), TRIPS, [latest("delay", ttl="2h")])
    numbers = FeatureView("numbers", Entity("place"), counted, [latest("delay", ttl="2h")])
    all_ = Definitions(views={"numbers": numbers, "texts": texts})
    processor = ViewProcessor(SqliteOnlineStore(tmp_path / "o.db"), all_)
    rows = trips(("x", "a", 1, 2.0))
    processor.push("trips", rows)
    processor.push("counted", rows.set_column(rows.column_names.index("place"), "place", pa.array([7])))
    processor.commit()
    reader = OnlineReader(SqliteOnlineStore(tmp_path / "o.db"), all_)
    for views in ([numbers, texts], [texts, numbers]):
        for key, told in (
            (7, "'texts' is string; request 0 has a whole number: 7"),
            ("a", "'numbers' is int64; request 0 has a text: 'a'"),
        ):
            with pytest.raises(InvalidError, match=told):
                reader.read(views, [{"place": key}], MINUTE)
    assert reader.read([numbers, texts], [{"place": None}], MINUTE) == [{"numbers__delay": None, "texts__delay": None}]


def test_a_store_that_does_not_say_what_its_keys_are_is_read_as_before(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    begin(store)
    old = {name: json.loads(text) for name, text in store.cursors().items() if name.endswith("/trips")}
    assert [cursor.pop("kinds") for cursor in old.values()] == [{"place": "string"}] * 2
    store.write({}, {name: json.dumps(cursor) for name, cursor in old.items()})
    assert OnlineReader(store, BOTH).read([BUSY, LAST], [{"place": 7}], MINUTE) == [NOTHING]
    ViewProcessor(store, BOTH).push("trips", trips(("x", "a", 1, 2.0)))


def test_a_value_that_is_too_large_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    processor = ViewProcessor(SqliteOnlineStore(tmp_path / "o.db"), BOTH)
    processor.push("trips", trips(("x", "a", 1, 2.0)))
    processor.commit()
    with pytest.raises(InvalidError, match=f"row 0 of table 'trips' has 10000000 bytes in 'word'; a value has {MAX_VALUE_BYTES} at most"):
        processor.push("trips", trips(("y", "a", 2, 3.0), ("z", "a", 3, 3.0), word="w" * 10_000_000))
    assert ask(processor, 4, "a")[0]["busy__count_1h"] == 1
    assert processor.push("trips", trips(("y", "a", 2, 3.0), word="w" * MAX_VALUE_BYTES)) == 1
    assert ask(processor, 4, "a")[0]["last__word"] == "w" * MAX_VALUE_BYTES


def test_state_that_can_no_longer_matter_is_swept(tmp_path: Path) -> None:
    store = SqliteOnlineStore(tmp_path / "o.db")
    processor = ViewProcessor(store, BOTH)
    processor.push("trips", trips(("x", "a", 1, 2.0), ("y", "b", 61, 3.0)))
    processor.advance(62 * MINUTE)
    processor.commit()
    keys = [(f"{place}/{place.partition('@')[0]}", f'["{key}"]') for key in "ab" for place in sorted(store.cursors()) if "@" in place[:6]]
    keys = [(v, k) for v, k in keys if "/" not in v.partition("/")[2]]
    assert len(keys) == 4
    assert None not in store.read(keys)
    processor.advance(122 * MINUTE + DAY_US)
    processor.commit()
    assert [body is None for body in store.read(keys)] == [True, True, False, False]
    reader = OnlineReader(store, BOTH)
    day = DAY_US // MINUTE
    assert ask(reader, day + 122, "a", "b", "c") == [NOTHING] * 3
    assert ask(reader, 122, "a") == [NOTHING]
    assert ask(reader, 122, "b")[0]["last__delay"] == 3.0
    with pytest.raises(InvalidError, match="offline store"):
        ask(reader, 62, "a")
    with pytest.raises(InvalidError, match="offline store"):
        ask(reader, 62, "c")


class Breaking(SqliteOnlineStore):
    """Fails while it is told to: before anything is written, or after all of it is."""

    fails = ""

    def write(
        self, states: Mapping[tuple[str, str], bytes], cursors: Mapping[str, str], expires_us: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        if self.fails != "before":
            super().write(states, cursors, expires_us)
        if self.fails:
            raise UnavailableError("gone")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_commit_loses_nothing_that_is_pushed_again(tmp_path: Path, when: str) -> None:
    store = Breaking(tmp_path / "o.db")
    processor = ViewProcessor(store, BOTH)
    processor.push("trips", trips(("x", "a", 1, 2.0)))
    processor.commit()
    processor.push("trips", trips(("y", "a", 2, 3.0)))
    store.fails = when
    with pytest.raises(UnavailableError):
        processor.commit()
    store.fails = ""
    assert processor.push("trips", trips(("y", "a", 2, 3.0), ("z", "a", 3, 5.0))) == 2
    processor.commit()
    assert ask(OnlineReader(store, BOTH), 4, "a")[0]["busy__count_1h"] == 3
    assert ViewProcessor(store, BOTH).push("trips", trips(("y", "a", 2, 3.0), ("z", "a", 3, 5.0))) == 0


class Losing(SqliteOnlineStore):
    """Has lost some views."""

    gone: frozenset[str] = frozenset()

    def read(self, keys: Sequence[tuple[str, str]]) -> list[bytes | None]:
        if any(view in self.gone for view, _ in keys):
            raise LostError("lost; run materialize")
        return super().read(keys)

    def lost(self) -> list[str]:
        return sorted(self.gone)

    def clear(self, view: str) -> None:
        super().clear(view)
        self.gone -= {view}


@pytest.mark.parametrize("gone", ["/busy", "/trips~0"])
def test_lost_state_makes_a_version_absent_until_it_is_made_anew(tmp_path: Path, gone: str) -> None:
    store = Losing(tmp_path / "o.db")
    begin(store)
    place = next(s for s in ViewProcessor(store, BOTH).versions() if s.view.name == "busy")
    store.gone = frozenset({f"busy@{place.digest.removeprefix(PREFIX)[:16]}{gone}"})
    processor = ViewProcessor(store, BOTH)
    assert {s.view.name: s.status for s in processor.versions()} == {"busy": "absent", "last": "published"}
    _made_anew(processor, store)


def test_state_that_is_lost_while_rows_come_makes_a_version_absent(tmp_path: Path) -> None:
    store = Losing(tmp_path / "o.db")
    begin(store)
    processor = ViewProcessor(store, BOTH)
    place = next(s for s in processor.versions() if s.view.name == "busy")
    store.gone = frozenset({f"busy@{place.digest.removeprefix(PREFIX)[:16]}/busy"})
    with pytest.raises(LostError):
        processor.push("trips", trips(("y", "a", 2, 3.0)))
    assert {s.view.name: s.status for s in processor.versions()} == {"busy": "absent", "last": "published"}
    processor.commit()
    assert {s.view.name: s.status for s in ViewProcessor(store, BOTH).versions()} == {"busy": "absent", "last": "published"}
    _made_anew(processor, store)


def _made_anew(processor: ViewProcessor, store: OnlineStore) -> None:
    digest = next(s.digest for s in processor.versions() if s.view.name == "busy")
    processor.reset("busy")
    processor.push("trips", trips(("x", "a", 1, 2.0)), only={digest})
    processor.commit()
    processor.publish({digest: True})
    assert {s.status for s in processor.versions()} == {"published"}
    assert ask(OnlineReader(store, BOTH), 4, "a")[0]["busy__count_1h"] == 1
