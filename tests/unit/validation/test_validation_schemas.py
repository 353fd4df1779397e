from pathlib import Path

import pyarrow as pa
import pytest

from tidemill.core.errors import ConfigError, InvalidError
from tidemill.validation import infer
from tidemill.validation.embedded import YamlSchemaStore

GOOD = """\
table: t
unique: [a]
columns:
  a: {kind: text, null_fraction: 0, domain: ["1", x]}
  b: {kind: number, low: 0, high: 9.5, quantiles: {0.5: [1, 2]}}
"""


def _store(tmp_path: Path, text: str) -> YamlSchemaStore:
    (tmp_path / "t.yaml").write_text(text, encoding="utf-8")
    return YamlSchemaStore(tmp_path)


def test_a_schema_written_by_hand_is_read(tmp_path: Path) -> None:
    schema = _store(tmp_path, GOOD).find("t")
    assert schema is not None
    assert (schema.unique, schema.columns[0].domain, schema.columns[1].quantiles) == (("a",), ("1", "x"), {"0.5": (1, 2)})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("table: t", "tabel: t", "unknown key 'tabel'; known are table, unique"),
        ("table: t", "table: other", "table must be 't', as the file is named, not 'other'"),
        ("unique: [a]", "unique: a", "unique must be list, not 'a'"),
        ("unique: [a]", "unique: [z]", "unique must be names of columns below, not 'z'"),
        ("kind: text", "kind: string", "columns.a.kind must be one of number, text, boolean, time, not 'string'"),
        ("null_fraction: 0", "null_fraction: 40", "columns.a.null_fraction must be a share from 0 to 1, not 40"),
        ("null_fraction: 0", "null_fraction: 0.1%", "columns.a.null_fraction must be int or float, not '0.1%'"),
        ("null_fraction: 0", "nulls: 0", "unknown key 'columns.a.nulls'"),
        ("low: 0", "low: true", "columns.b.low must be int or float, not True"),
        ('["1", x]', "[1, x]", "columns.a.domain must be texts (put quotes around what YAML reads as something else), not 1"),
        ("[1, 2]", "[1]", "columns.b.quantiles.0.5 must be a rank from 0 to 1 with [low, high], not [1]"),
        ("0.5: [1, 2]", "50: [1, 2]", "columns.b.quantiles.50 must be a rank from 0 to 1"),
        ("columns:", "columns: 3 #", "columns must be dict, not 3"),
        ("table: t", "]", "is not YAML"),
    ],
)
def test_a_wrong_key_or_type_names_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = GOOD.replace(old, new, 1)
    if new.startswith("columns: 3"):
        text = "table: t\ncolumns: 3\n"
    with pytest.raises(ConfigError) as caught:
        _store(tmp_path, text).find("t")
    assert str(caught.value).startswith(str(tmp_path / "t.yaml"))
    assert message in str(caught.value)


def test_a_table_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidError):
        YamlSchemaStore(tmp_path).find("../secrets")


def test_inferring_needs_rows() -> None:
    with pytest.raises(InvalidError, match="no schema can be inferred for 't' without rows"):
        infer("t", pa.table({"a": pa.array([], pa.int64())}))


def test_what_is_inferred_survives_the_file(tmp_path: Path) -> None:
    rows = pa.table({"a": ["x", "y"] * 50, "b": [i / 7 for i in range(100)], "n": [None] * 100, "k": [True, None] * 50})
    rows = rows.append_column("at", pa.array(range(100), pa.timestamp("us", tz="UTC")))
    store, schema = YamlSchemaStore(tmp_path), infer("t", rows, unique=("b",))
    store.save(schema)
    assert store.find("t") == schema
    rules = {column.name: column for column in schema.columns}
    assert rules["a"].domain == ("x", "y")
    assert rules["b"].null_fraction == 0.0
    assert rules["at"].null_fraction == 0.0
    assert rules["n"].null_fraction is None
    assert rules["k"].null_fraction is None
