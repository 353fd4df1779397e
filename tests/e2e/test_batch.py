"""Batches of predictions: what the server would have answered, whatever is killed on the way."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.blocks import copied
from tests.support.small_project import UNTIL, asked, ingested, tidemill

from tidemill.core.clock import ReplayClock
from tidemill.core.instants import parse_instant
from tidemill.platform.root import Platform

pytestmark = pytest.mark.slow
ULP = 5e-16
"""ONNX Runtime computes the last rows of a batch without vector instructions, which may differ in the last bit."""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("batch") / "kitchen")


def batch(project: Path, *more: str) -> Any:
    return json.loads(tidemill("predict", "--project", str(project), "batch", "--until", UNTIL, "--json", *more))


def test_the_last_row_is_answered_as_online(there: Path, tmp_path: Path) -> None:
    """The online state is that of the end of the replay, so rows placed then are answered by both."""
    out = tmp_path / "scores.parquet"
    done = batch(there, "--to", str(out))
    scores = pq.read_table(out)
    assert scores.column_names == ["order", "at", "score", "model_version"]
    assert done["rows"] == scores.num_rows > 2000
    assert set(scores["model_version"].to_pylist()) == {1}
    platform = Platform.open(there, ["serving.allow_at=true"], clock=ReplayClock(parse_instant(UNTIL)))
    table = platform.training_set(service="kitchen", label="", until_us=parse_instant(UNTIL))
    table = table.slice(table.num_rows - 40)
    by_id = dict(zip(scores["order"].to_pylist(), scores["score"].to_pylist(), strict=True))
    model = platform.runtime.load(platform.blobs.fetch(platform.registry.get("kitchen", 1).digest))
    rows = table.to_pylist()
    want = model.predict([[row[name] for name in model.features] for row in rows])
    np.testing.assert_allclose([by_id[row["id"]] for row in rows], want, rtol=ULP)
    last = table.to_pylist()[-1]
    inputs = [_tensor(name, last[name], name in model.texts) for name in model.features]
    reply = asyncio.run(asked(platform, json.dumps({"inputs": inputs}).encode()))
    np.testing.assert_allclose(reply.json()["outputs"][0]["data"], [by_id[last["id"]]], rtol=ULP)
    platform.close()


def equal(one: pa.Table, other: pa.Table) -> bool:
    np.testing.assert_allclose(one["score"].to_numpy(), other["score"].to_numpy(), rtol=ULP)
    return bool(one.drop_columns("score").equals(other.drop_columns("score")))


def _tensor(name: str, value: Any, text: bool) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES" if text else "FP64", "shape": [1], "data": [value if text or value is None else float(value)]}


def test_pieces_and_targets_do_not_matter(there: Path, tmp_path: Path) -> None:
    project = copied(there, tmp_path / "kitchen")
    whole, pieces = tmp_path / "a.parquet", tmp_path / "b.parquet"
    batch(project, "--to", str(whole))
    batch(project, "--to", str(pieces), "--rows", "97")
    batch(project, "--rows", "500")
    want = pq.read_table(whole)
    assert equal(pq.read_table(pieces), want)
    platform = Platform.open(project)
    scan = platform.tables.scan("predictions_kitchen")
    assert (
        pa.concat_tables([pq.read_table(p, columns=want.column_names) for p in scan.paths]).sort_by("order").equals(want.sort_by("order"))
    )
    platform.close()
    assert not list((project / ".tidemill" / "batch").glob("*/part-*"))


def test_a_killed_batch_goes_on_and_gives_the_same(there: Path, tmp_path: Path) -> None:
    project, out = copied(there, tmp_path / "kitchen"), tmp_path / "out.parquet"
    batch(project, "--to", str(tmp_path / "undisturbed.parquet"), "--rows", "20")
    command = ["predict", "--project", str(project), "batch", "--until", UNTIL, "--to", str(out), "--rows", "20"]
    process = subprocess.Popen([sys.executable, "-m", "tidemill.cli", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts: list[Path] = []
    while len(parts) < 5 and process.poll() is None:
        parts = list((project / ".tidemill" / "batch").glob("*/part-*.parquet"))
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = {p: p.stat().st_mtime_ns for p in (project / ".tidemill" / "batch").glob("*/part-*.parquet")}
    done = json.loads(tidemill(*command, "--json"))
    assert done["resumed_rows"] == 20 * len(kept) > 0
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "undisturbed.parquet"))


@pytest.mark.parametrize("group", [1, 10])
def test_rows_of_a_file_stand_as_they_are(there: Path, tmp_path: Path, group: int) -> None:
    at = pa.array([parse_instant(day) for day in ("2024-01-20", "2030-01-01", "2024-01-20", "2024-01-20")]).cast(pa.timestamp("us", "UTC"))
    columns = {
        "order": ["x", "later", "y", "z"],
        "at": at,
        "placed_at": at,
        "kitchen": ["taco", "taco", "taco", None],
        "distance_km": [1.0, 1.0, 9.0, None],
        "items": [1, 1, 2, 3],
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=group)
    done = batch(there, "--table", str(tmp_path / "rows.parquet"), "--to", str(tmp_path / "out.parquet"))
    scores = pq.read_table(tmp_path / "out.parquet")
    assert (done["rows"], scores["order"].to_pylist()) == (3, ["x", "y", "z"])
    assert scores["score"][1].as_py() > scores["score"][0].as_py()


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--to", "orders"], 1, "one that the project ingests"),
        (["--to", "some/where"], 2, "nor a .parquet file"),
        (["--table", "nowhere"], 3, "neither a file nor a table"),
        (["--model", "77"], 3, "77"),
        (["--from", "2030-01-01"], 2, "no row at such times"),
    ],
)
def test_what_cannot_be_done_says_why(there: Path, words: list[str], code: int, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tidemill.cli", "predict", "--project", str(there), "batch", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, reason in done.stderr) == (code, True), done.stderr
