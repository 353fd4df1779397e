"""Values come back as they were, and equal values have equal digests."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.pipelines.codecs import default_codecs
from tidemill.pipelines.storage import Storage
from tidemill.versioning.embedded import FileBlobStore

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text() | st.binary(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner)
)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(FileBlobStore(tmp_path), default_codecs())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float):
        return type(b) is float and ((a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b))
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(b) is dict and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(VALUES)
def test_plain_values_round_trip(storage: Storage, value: Any) -> None:
    if isinstance(value, dict) and "\0" in value:
        return
    kept = storage.store(value, "x")
    assert same(storage.load(kept, "x"), value)
    assert storage.store(value, "x")["digest"] == kept["digest"]
    assert storage.present(kept)


def test_digests_tell_values_apart(storage: Storage) -> None:
    values = [1, 1.0, "1", True, None, [1], (1,), {"a": 1}, math.nan, math.inf, b"1", "", [], {}, -0.0, 0.0]
    assert len({storage.store(value, "x")["digest"] for value in values}) == len(values)
    assert storage.store({"a": 1, "b": 2}, "x")["digest"] == storage.store({"b": 2, "a": 1}, "x")["digest"]


def test_large_values_are_blobs(storage: Storage) -> None:
    kept = storage.store({"text": "x" * 50_000, "n": 1}, "x")
    assert "value" not in kept
    assert kept["items"]["n"]["value"] == 1
    assert storage.load(storage.item(kept, "text", "x"), "x") == "x" * 50_000


def test_tables_do_not_depend_on_chunks_slices_or_what_lies_under_nulls(storage: Storage) -> None:
    table = pa.table({"x": pa.array([1.0, None, 3.0]), "s": ["a", None, "ü"], "b": [True, None, False], "l": [[1], None, []]})
    garbage = pa.Array.from_buffers(
        pa.float64(), 3, [pa.py_buffer(bytes([0b11111101])), pa.py_buffer(np.array([1.0, 77.0, 3.0]).tobytes())]
    )
    spelled = [
        table,
        pa.concat_tables([table.slice(0, 1), table.slice(1)]),
        pa.concat_tables([table] * 3).slice(3, 3),
        table.set_column(0, "x", garbage),
    ]
    kept = [storage.store(t, "x") for t in spelled]
    assert len({k["digest"] for k in kept}) == 1
    assert storage.load(kept[0], "x").equals(table)
    assert storage.load(storage.store(table.slice(0, 0), "x"), "x").schema == table.schema


def test_arrays_and_bytes_round_trip(storage: Storage) -> None:
    for array in (np.arange(6).reshape(2, 3), np.array([0.1, np.nan]), np.array(["2013-01-01"], "M8[us]"), np.array(["a", "bc"])):
        back = storage.load(storage.store(array, "x"), "x")
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype
    assert storage.load(storage.store(b"\0\1", "x"), "x") == b"\0\1"
    assert storage.load(storage.store(np.float64(0.1), "x"), "x") == 0.1


def test_containers_of_stored_values_are_kept_item_by_item(storage: Storage) -> None:
    table = pa.table({"x": [1]})
    kept = storage.store({"t": table, "parts": [table, 1], "n": 1}, "x")
    back = storage.load(kept, "x")
    assert back["t"].equals(table)
    assert back["parts"][1] == 1
    assert storage.item(kept, "t", "x")["digest"] == storage.store(table, "x")["digest"]
    with pytest.raises(InvalidError, match="no item 'u'; it has 't', 'parts', 'n'"):
        storage.item(kept, "u", "x")


def test_what_nobody_keeps_is_named(storage: Storage) -> None:
    with pytest.raises(InvalidError, match=r"the result\['a'\] is a builtins.set"):
        storage.store({"a": {1}}, "the result")
    with pytest.raises(NotFoundError, match="'odd'"):
        storage.load({"codec": "odd", "digest": "sha256:x"}, "x")


def test_a_lost_blob_is_noticed(storage: Storage, tmp_path: Path) -> None:
    kept = storage.store({"t": pa.table({"x": [1]})}, "x")
    assert storage.present(kept)
    FileBlobStore(tmp_path).remove([kept["items"]["t"]["digest"]])
    assert not storage.present(kept)
