"""Hashes, indexes and groups: each against something slow and obvious."""

import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.features.embedded.decode import Batch
from tidemill.features.embedded.grouped import exact_sums
from tidemill.features.embedded.hashing import combined, digests, words_of
from tidemill.features.embedded.index import Index
from tidemill.features.embedded.rows import RowStore

_FLOATS = st.sampled_from([0.0, -0.0, 0.1, 1e-7, 1e15, -1e15, 3.0, 1e300]) | st.floats(-1e12, 1e12, allow_nan=False)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([1, -3, None, 0], [pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.int16()]),
        (["", "a", None, "abcdefgh", "abcdefghi" * 9, "é" * 400], [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]),
        ([0, 1_000_000, None], [pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")]),
    ],
)
def test_equal_values_have_equal_hashes_whatever_their_type(values: list[Any], kinds: list[pa.DataType]) -> None:
    def array(kind: pa.DataType) -> pa.Array:
        if pa.types.is_timestamp(kind):
            return pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC")).cast(kind)
        return pa.array(values, pa.string()).cast(kind) if pa.types.is_dictionary(kind) else pa.array(values, kind)

    first, null = words_of(array(kinds[0]))
    assert null is not None
    assert null.tolist() == [v is None for v in values]
    assert len(set(first[~null].tolist())) == len(values) - 1
    for kind in kinds[1:]:
        again, _ = words_of(array(kind))
        assert again[~null].tolist() == first[~null].tolist()
        sliced, _ = words_of(pa.chunked_array([array(kind)[:1], array(kind)[1:]])[1:])
        assert sliced[~null[1:]].tolist() == first[1:][~null[1:]].tolist()


def test_hashes_are_the_same_in_every_version() -> None:
    """They are stored: whoever changes them has to raise `memory.FORMAT`."""
    rows = pa.table({"a": [1, 2], "b": ["x", None], "c": [0.5, math.nan]})
    assert digests(rows).tolist() == [12930668250055904867, 10575108305100582257]
    assert combined([rows["a"], rows["b"]], 2)[0][:1].tolist() == [16256304655963763182]


def test_a_column_without_values_changes_no_digest() -> None:
    rows = pa.table({"a": [1, 2, None], "b": ["x", None, None]})
    wider = rows.append_column("c", pa.nulls(3, pa.float64())).select(["c", "b", "a"])
    assert digests(rows).tolist() == digests(wider).tolist()
    assert len(set(digests(rows).tolist())) == 3
    swapped = pa.table({"a": ["x"], "b": ["y"]}), pa.table({"a": ["y"], "b": ["x"]})
    assert digests(swapped[0]).tolist() != digests(swapped[1]).tolist()


def test_nested_values_and_decimals_can_be_told_apart() -> None:
    rows = pa.table(
        {"l": [[1], [1, 2], None], "s": [{"x": 1}, {"x": 2}, {"x": 1}], "d": pa.array(["1.5", "2.5", "3.5"]).cast(pa.decimal128(5, 2))}
    )
    for name in rows.column_names:
        words, null = words_of(rows[name])
        assert len({w for w, n in zip(words.tolist(), [False] * 3 if null is None else null, strict=True) if not n}) >= 2
    assert words_of(pa.array([True, False]))[0].tolist() == words_of(pa.array([1, 0]))[0].tolist()


def test_an_index_finds_what_a_dict_finds() -> None:
    draw, index, kept = random.Random(3), Index(), dict[int, list[int]]()
    for turn in range(40):
        hashes = [draw.randrange(300) for _ in range(draw.randrange(60))]
        numbers = list(range(turn * 100, turn * 100 + len(hashes)))
        index.add(np.array(hashes, dtype=np.uint64), np.array(numbers, dtype=np.int64))
        for h, n in zip(hashes, numbers, strict=True):
            kept.setdefault(h, []).append(n)
        if turn % 3 == 1:
            continue  # the next look finds both additions
        asked = sorted(draw.sample(range(320), 20))
        places, found = index.find(np.array(asked, dtype=np.uint64))
        assert sorted(zip(places.tolist(), found.tolist(), strict=True)) == sorted(
            (i, n) for i, h in enumerate(asked) for n in kept.get(h, [])
        )


def test_runs_stay_few_and_rows_are_copied_seldom() -> None:
    """Work is counted: 2,000 additions of 50 leave a handful of runs, so that finding stays a handful of binary searches."""
    index = Index()
    for turn in range(2000):
        index.add(np.arange(50, dtype=np.uint64) * 7919 + np.uint64(turn), np.arange(50))
        assert len(index._runs()) <= 10


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.none() | _FLOATS, min_size=1, max_size=40), min_size=1, max_size=6))
def test_sums_of_groups_are_exact(groups: list[list[float | None]]) -> None:
    values = np.array([math.nan if v is None else v for g in groups for v in g], dtype=np.float64)
    start = np.cumsum([0, *(len(g) for g in groups[:-1])])
    for group, partials in zip(groups, exact_sums(values, start), strict=True):
        assert math.fsum(partials) == math.fsum(v for v in group if v is not None)
        assert all(partials), "zeros are not kept"


_WORDS = ("number", "event", "known", "identity", "digest")


@pytest.mark.parametrize("bare", [True, False])
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(-5, 5), st.sampled_from([0, 0, 7])), min_size=1, max_size=9), st.data())
def test_rows_come_back_from_their_bodies(bare: bool, rows: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Whether their numbers have gaps, and whether they were known when they happened; in whatever pieces."""
    gaps, event, late = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    columns = pa.table({"v_a": event.astype(str).tolist()})
    identity, digest = (np.arange(len(rows), dtype=np.uint64) + np.uint64(2**63 + n) for n in (3, 9))
    kept, again = RowStore(), RowStore()
    kept.add(np.cumsum(gaps), Batch(event, event + late, identity, digest, columns, columns, np.arange(len(rows))), bare=bare)
    for places in np.split(np.arange(len(rows)), sorted(data.draw(st.sets(st.integers(1, len(rows)))))):
        if len(places):
            again.restore(kept.dump(places))
    for name in _WORDS:
        assert getattr(again, name).tolist() == getattr(kept, name).tolist(), name
    assert again.bare == kept.bare
    assert bare or again.all_values().equals(kept.all_values())


def test_a_body_has_nothing_that_follows_from_the_rest() -> None:
    """Three words for each row whose number follows on the one before and that was known when it happened, five at most."""
    n, many = 10_000, pa.table({"v_a": ["x"] * 10_000})
    event, number = np.arange(n) * 7, np.arange(n) + 5
    hashes = event.astype(np.uint64)
    for known, numbers, most in ((event, number, 3), (event + 1, number, 4), (event + 1, number * 2, 5)):
        store = RowStore()
        store.add(numbers, Batch(event, known, hashes, hashes, many, many, number), bare=True)
        assert 0 <= len(store.dump(np.arange(n))) - most * 8 * n < 2_000


def test_bodies_of_before_had_all_words() -> None:
    written, sink = (
        pa.table({name: pa.array([4, 9], pa.uint64() if "i" in name else pa.int64()) for name in _WORDS}),
        pa.BufferOutputStream(),
    )
    with pa.ipc.new_stream(sink, written.schema) as writer:
        writer.write_table(written)
    store = RowStore()
    store.restore(sink.getvalue().to_pybytes())
    assert [getattr(store, name).tolist() for name in _WORDS] == [[4, 9]] * 5
    assert store.bare == 2
