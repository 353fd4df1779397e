"""What of a Feast repository can be kept, and the project that is written of it; Feast itself is not needed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.feast_repo import write_data

from tidemill.adapters.feast.fit import fit, mismatch
from tidemill.adapters.feast.importer import NotKeptError, write_project
from tidemill.adapters.feast.repository import Field, Repository, read_repository
from tidemill.core.errors import ConflictError, InvalidError, NotFoundError
from tidemill.features import apply_on_demand
from tidemill.platform.project import load_definitions

NOW = 1_700_000_000_000_000
CODE = """\
import math
from feast import on_demand_feature_view
import helpers

RATE = 3


def scaled(values):
    return [None if v is None else math.floor(v) * RATE for v in values]


@on_demand_feature_view(sources=[])
def effort(inputs):
    return {"much": scaled(inputs["rating"]), "km": inputs["km"]}


def lost(inputs):
    return {"much": helpers.twice(inputs["rating"])}


def nowhere(inputs):
    return {"much": unknown(inputs)}
"""


def facts(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "kind": kind}


def source(name: str, path: str = "data/rides.parquet", **more: Any) -> dict[str, Any]:
    plain = {"path": path, "format": "", "event_time": "happened", "known_time": "written", "renamed": {}, "batch": ""}
    return {**facts(name, "FileSource"), **plain, **more}


def view(name: str, features: dict[str, str], **more: Any) -> dict[str, Any]:
    fields = [{"name": n, "type": t} for n, t in features.items()]
    plain = {
        "entities": ["courier"],
        "keys": ["courier_id"],
        "ttl_s": 72000.0,
        "source": "rides",
        "stream": "",
        "transformed": False,
        "online": True,
    }
    return {**facts(name, "FeatureView"), **plain, "features": fields, **more}


def projection(name: str, *features: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "alias": "", "features": list(features), "keys_renamed": {}, "version": 0, **more}


def on_demand(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        **facts("effort", "OnDemandFeatureView"), "mode": "python", "singleton": False, "stored": False, "aggregated": False, "function": "effort",
        "file": str(folder / "code.py"), "features": [{"name": "much", "type": "Int64"}], "views": [projection("shape", "rating", "trips")],
        "request": [{"name": "km", "type": "Float64"}], **more,
    }  # fmt: skip


def described(folder: Path, **changed: Any) -> Repository:
    base: dict[str, Any] = {
        "feast": "0.67.0",
        "project": "couriers",
        "entities": [
            {**facts("courier", "Entity"), "key": "courier_id", "type": "INT64", "description": 'who "rides"', "tags": {"tier": "1"}}
        ],
        "sources": [source("rides"), source("rides-live", kind="PushSource", path="", event_time="", known_time="", batch="rides")],
        "views": [view("shape", {"trips": "Int64", "rating": "Float64", "home": "String", "ok": "Bool"}, stream="rides-live", owner="ops")],
        "on_demand": [on_demand(folder)],
        "services": [
            {**facts("dispatch", "FeatureService"), "views": [projection("shape", "rating", "trips"), projection("effort", "much")]}
        ],
        "others": [],
    }
    return msgspec.convert({**base, **changed}, Repository)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path / "repo", NOW)
    (tmp_path / "repo" / "code.py").write_text(CODE)
    (tmp_path / "repo" / "helpers.py").write_text("")
    (tmp_path / "repo" / "feature_store.yaml").write_text("project: couriers\n")
    return tmp_path / "repo"


def told(folder: Path, **changed: Any) -> list[str]:
    return [f"{p.name}: {p.reason}" for p in fit(described(folder, **changed), folder).problems]


def test_all_of_a_plain_repository_is_kept(folder: Path) -> None:
    fitted = fit(described(folder), folder)
    assert fitted.problems == []
    assert (len(fitted.views), len(fitted.on_demand), len(fitted.services)) == (1, 1, 1)
    assert list(fitted.code) == ["RATE", "math", "scaled", "effort"], "what a function needs, in an order that runs"
    assert "@" not in fitted.code["effort"]


def cases() -> Iterator[Any]:
    ok = {"trips": "Int64"}
    yield "views", [view("Shape", ok)], "lower case"
    yield "views", [view("a", ok, kind="BatchFeatureView", transformed=True)], "BatchFeatureView"
    yield "views", [view("a", ok, keys=[], entities=[])], "no entity"
    yield "views", [view("a", {})], "no features"
    yield "views", [view("a", ok, source="none")], "no batch source"
    yield "views", [view("a", {"tripz": "Int64"})], "no column tripz"
    yield "views", [view("a", {"trips": "Array(Int64)"})], "Array(Int64)"
    yield "views", [view("a", {"home": "Int64"})], "converts"
    yield "views", [view("a", {"rating": "Float32"})], "--wider"
    yield "sources", [source("rides", kind="BigQuerySource")], "BigQuerySource"
    yield "sources", [source("rides", format="DeltaFormat")], "DeltaFormat"
    yield "sources", [source("rides", renamed={"a": "b"})], "a to b"
    yield "sources", [source("rides", event_time="")], "timestamp field"
    yield "sources", [source("rides", event_time="trips")], "must be a timestamp"
    yield "sources", [source("rides", path="s3://x/y.parquet")], "s3://x/y.parquet"
    yield "sources", [source("rides", path="data/none.parquet")], "no Parquet file"
    yield "sources", [source("rides"), source("rides-live", kind="KafkaSource")], "KafkaSource"
    yield "sources", [source("rides"), source("rides live", kind="PushSource")], ""
    yield "entities", [{**facts("courier", "Entity"), "key": "courier_id", "type": "STRING"}], "type STRING"
    yield "entities", [{**facts("Courier", "Entity"), "key": "courier_id", "type": "INT64"}], ""
    yield "services", [{**facts("s", "FeatureService"), "views": [projection("shape", "trips", alias="form")]}], "'form'"
    yield (
        "services",
        [{**facts("s", "FeatureService"), "views": [projection("shape", "trips", keys_renamed={"a": "b"})]}],
        "other key columns",
    )
    yield "services", [{**facts("s", "FeatureService"), "views": [projection("shape", "trips", version=2)]}], "version 2"
    yield "services", [{**facts("s", "FeatureService"), "views": [projection("none", "trips")]}], "not kept"
    yield "services", [{**facts("S", "FeatureService"), "views": []}], "lower case"
    yield "others", [{"kind": "permission", "name": "p"}], "no equal"


@pytest.mark.parametrize(("group", "things", "words"), [pytest.param(*c, id=f"{c[0]}-{c[2] or i}") for i, c in enumerate(cases()) if c[2]])
def test_what_cannot_be_kept_has_a_reason(folder: Path, group: str, things: Any, words: str) -> None:
    assert any(words in line for line in told(folder, **{group: things})), told(folder, **{group: things})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "substrait"}, "substrait"),
        ({"stored": True}, "stored"),
        ({"function": ""}, "no plain function"),
        ({"function": "lost"}, "helpers"),
        ({"function": "nowhere"}, "'unknown'"),
        ({"name": "Effort"}, "'Effort'"),
        ({"views": [], "request": []}, "reads nothing"),
        ({"request": [{"name": "a b", "type": "Int64"}]}, "'a b'"),
        ({"views": [projection("far", "x")]}, "'far', which is not kept"),
    ],
)
def test_on_demand_views_that_cannot_be_kept(folder: Path, change: dict[str, Any], words: str) -> None:
    assert any(words in line for line in told(folder, on_demand=[on_demand(folder, **change)], services=[]))


@pytest.mark.parametrize(
    ("feature", "column", "fits"),
    [
        ("Int64", pa.int32(), True), ("Int32", pa.int64(), False), ("Int64", pa.float64(), False), ("Float64", pa.float32(), True),
        ("Float64", pa.int64(), True), ("Float32", pa.float32(), True), ("Float32", pa.float64(), False), ("String", pa.large_string(), True),
        ("String", pa.dictionary(pa.int32(), pa.string()), True), ("String", pa.int64(), False), ("Bool", pa.bool_(), True),
        ("Bool", pa.int64(), False), ("UnixTimestamp", pa.timestamp("ns"), True), ("UnixTimestamp", pa.int64(), False), ("Bytes", pa.binary(), False),
    ],
)  # fmt: skip
def test_types_fit_when_the_values_stay_equal(feature: str, column: pa.DataType, fits: bool) -> None:
    assert (mismatch(Field("x", feature), column, wider=False) == "") is fits
    if feature in ("Int32", "Float32"):
        assert mismatch(Field("x", feature), column, wider=True) == ""


def test_the_written_project_loads_and_computes(folder: Path, tmp_path: Path) -> None:
    report = write_project(described(folder), folder, tmp_path / "project")
    assert set(report.files) == {"definitions.py", "feast_functions.py", "conf/config.yaml", "README.md", ".gitignore"}
    definitions = load_definitions(tmp_path / "project")
    shape = definitions.views["shape"]
    assert (shape.columns, shape.keys, shape.owner) == (
        ("shape__trips", "shape__rating", "shape__home", "shape__ok"),
        ("courier_id",),
        "ops",
    )
    assert (shape.entities[0].description, shape.entities[0].tags) == ('who "rides"', ("tier=1",))
    assert {a.ttl_us for a in shape.aggregates} == {72_000_000_000}
    assert (shape.table.pushed_as, shape.table.event_time, shape.table.known_time) == ("rides-live", "happened", "written")
    service = definitions.feature_services["dispatch"]
    assert [f if isinstance(f, str) else f.name for f in service.features] == ["shape:rating", "shape:trips", "effort__much"]
    made = apply_on_demand(
        service, {"shape__rating": np.array([2.9, np.nan]), "shape__trips": np.array([1.0, np.nan]), "km": np.array([1.0, 2.0])}
    )
    assert made["effort__much"].tolist() == [6, None]
    assert any("known time" in note and "rides" in note for note in report.notes)


def test_ttl_zero_and_no_created_timestamp_are_said(folder: Path, tmp_path: Path) -> None:
    views = [view("shape", {"trips": "Int64"}, ttl_s=0.0, source="Rides file")]
    given = described(folder, sources=[source("Rides file", known_time="")], views=views, on_demand=[], services=[])
    report = write_project(given, folder, tmp_path / "project")
    text = (tmp_path / "project" / "definitions.py").read_text()
    assert 'ttl="36500d")])  # no ttl in Feast' in text
    assert 'event_time="happened", known_time="happened")  # no created timestamp' in text
    assert any("36500d here: shape" in note for note in report.notes)
    assert load_definitions(tmp_path / "project").views["shape"].table.name == "rides_file"


def test_one_name_for_entity_view_and_service_gets_three_variables(folder: Path, tmp_path: Path) -> None:
    service = {**facts("courier", "FeatureService"), "views": [projection("courier", "trips")]}
    given = described(folder, views=[view("courier", {"trips": "Int64"})], on_demand=[], services=[service])
    write_project(given, folder, tmp_path / "project")
    definitions = load_definitions(tmp_path / "project")
    assert (list(definitions.views), list(definitions.feature_services)) == (["courier"], ["courier"])


def test_nothing_is_written_when_something_cannot_be_kept(folder: Path, tmp_path: Path) -> None:
    given = described(folder, views=[view("shape", {"rating": "Float32"}), view("far", {"x": "Int64"})], on_demand=[], services=[])
    with pytest.raises(NotKeptError, match=r"2 of the repository's objects cannot be kept:(.|\n)*--wider(.|\n)*no column x"):
        write_project(given, folder, tmp_path / "project")
    assert not (tmp_path / "project").exists()
    report = write_project(given, folder, tmp_path / "project", skip=["far"], wider=True)
    assert (report.views, report.skipped) == (1, ("far",))
    with pytest.raises(ConflictError, match="not empty"):
        write_project(given, folder, tmp_path / "project")
    with pytest.raises(NotFoundError, match="did you mean 'far'"):
        write_project(given, folder, tmp_path / "other", skip=["fra"])
    with pytest.raises(InvalidError, match="nothing to import"):
        write_project(given, folder, tmp_path / "other", skip=["far", "shape"])


def test_a_folder_of_files_is_read_as_one_source(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / "data" / "rides.parquet"), folder / "data" / "many.parquet")
    (folder / "lots").mkdir()
    (folder / "data" / "many.parquet").rename(folder / "lots" / "2024-01-01.parquet")
    fitted = fit(
        described(folder, sources=[source("rides", "lots")], views=[view("a", {"trips": "Int64"})], on_demand=[], services=[]), folder
    )
    assert fitted.problems == []
    assert fitted.paths == {"rides": folder / "lots"}


def test_a_python_without_feast_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"feature_store\.yaml"):
        read_repository(tmp_path)
    with pytest.raises(NotFoundError, match="--python"):
        read_repository(folder, str(tmp_path / "no-python"))
