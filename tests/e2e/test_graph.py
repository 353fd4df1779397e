"""A service that answers by a graph, from its definition to the console: the real server, batches, the log, `why` and the pages say the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.e2e.test_batch import ULP
from tests.e2e.test_up import Up, start
from tests.support.small_project import UNTIL, ingested, tidemill

from tidemill.core.clock import ReplayClock
from tidemill.core.instants import parse_instant
from tidemill.platform.root import Platform

pytestmark = pytest.mark.slow
GRAPH = '''

def rush(hour, items):
    """Long orders at dinner time."""
    if (items > 50).any():
        raise ValueError("too many items for one kitchen")
    return np.where((hour >= 18) & (items > 2), 0.9, 0.1)


def capped(mixed):
    return np.minimum(mixed, 0.8)


mixed = tm.ensemble(
    tm.model(service, name="now"), tm.model("kitchen", version=1, name="first"), rush, combine="weighted", weights=(0.5, 0.2, 0.3), quorum=2, name="mixed"
)
split = tm.splitter(tm.sequence(mixed, capped), tm.model("kitchen", version=1, name="alone"), weights=(0.7, 0.3), by="kitchen")
composed = tm.Service(
    "composed", features=["kitchen", "distance_km", "items", recent, hour], label=late, spine=orders, key="order",
    graph=tm.switch(lambda distance_km: distance_km > 6, {True: tm.model("kitchen", name="far"), False: split}),
)
'''


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    project = ingested(tmp_path_factory.mktemp("graph") / "kitchen")
    with (project / "definitions.py").open("a") as file:
        file.write(GRAPH)
    running = start(project, project.parent / "up.txt")
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(timeout=60)


def infer(up: Up, rows: list[dict[str, Any]], name: str = "graph") -> Any:
    columns = [c for c in rows[0] if c != "order"]
    texts = {"kitchen"}
    inputs = [{"name": "order", "datatype": "BYTES", "shape": [len(rows)], "data": [r["order"] for r in rows]}]
    inputs += [
        {"name": c, "datatype": "BYTES" if c in texts else "FP64", "shape": [len(rows)], "data": [r[c] for r in rows]} for c in columns
    ]
    url = f"http://127.0.0.1:{up.serving_port}/v2/models/composed/infer"
    return httpx.post(url, json={"id": name, "inputs": inputs}, headers={"authorization": f"Bearer {up.token}"}, timeout=60)


def console(up: Up) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{up.port}", headers={"authorization": f"Bearer {up.token}"}, timeout=60)


def test_the_server_a_batch_and_why_say_the_same(up: Up) -> None:
    out = up.project.parent / "scores.parquet"
    done = json.loads(
        tidemill(
            "predict", "--project", str(up.project), "batch", "composed", "--until", UNTIL, "--to", str(out), "--rows", "700", "--json"
        )
    )
    scores = pq.read_table(out)
    assert scores.column_names == ["order", "at", "score", "model_version", "route"]
    assert (done["model_version"], done["rows"], "failed_rows" in done) == (0, scores.num_rows, False)
    offline = {row["order"]: row for row in scores.to_pylist()}
    platform = Platform.open(up.project, [], clock=ReplayClock(parse_instant(UNTIL)))
    try:
        table = platform.training_set(service="composed", label="", until_us=parse_instant(UNTIL))
        rows = table.slice(table.num_rows - 300).to_pylist()
    finally:
        platform.close()
    columns = ["kitchen", "distance_km", "items", "recent__minutes_mean_3h", "recent__count_3h", "hour"]
    names = [c for c in table.column_names if c in columns or c.startswith("recent__")]
    sent = [{"order": r["id"], **{c: r[c] if r[c] is None or isinstance(r[c], str) else float(r[c]) for c in names}} for r in rows]
    reply = infer(up, sent)
    assert reply.status_code == 200, reply.text
    online = dict(zip([r["order"] for r in sent], reply.json()["outputs"][0]["data"], strict=True))
    np.testing.assert_allclose(list(online.values()), [offline[order]["score"] for order in online], rtol=4 * ULP)
    routes = {tuple(v[0] for v in json.loads(offline[order]["route"])[1:]) for order in online}
    assert routes == {("far",), ("alone",), ("now", "first", "rush", "capped")}

    order = next(o for o in online if "rush" in offline[o]["route"])
    why = json.loads(tidemill("why", "--project", str(up.project), order, "--json"))
    assert why["prediction"]["score"] == online[order]
    graph = why["graph"]
    assert graph["again"] == pytest.approx(online[order], rel=4 * ULP)
    said = {s["node"]: s["said"] for s in [*graph["stations"], *graph["compositions"]]}
    mean = 0.5 * said["now"] + 0.2 * said["first"] + 0.3 * said["rush"]
    assert said["mixed"] == pytest.approx(mean, rel=1e-12)
    assert said["capped"] == min(mean, 0.8) == pytest.approx(online[order])
    assert {s["uri"] for s in graph["stations"] if s["uri"]} == {"models:/kitchen/1"}
    assert all(s["run"] for s in graph["stations"] if s["uri"]), "each model goes back to the run that `tidemill reproduce` runs again"
    page = console(up).get(f"/predictions/{order}")
    assert page.status_code == 200, page.text
    assert "asked again with the same inputs it says" in page.text
    assert "asked again it says" in tidemill("why", "--project", str(up.project), order)


def test_a_member_that_fails_is_named_in_the_log_and_counted(up: Up) -> None:
    row = {"order": "huge", "kitchen": "taco", "distance_km": 1.0, "items": 60.0, "placed_at": "2024-02-05T19:00:00Z"}
    kitchens = [{**row, "order": f"huge-{k}", "kitchen": k} for k in ("taco", "sushi", "pizza", "curry", "noodle")]
    for one in kitchens:
        one["placed_at"] = "2024-02-05T19:00:00Z"
    sent = [{k: v for k, v in one.items() if k != "placed_at"} | {"hour": 19.0} for one in kitchens]
    lookups = [{k: v for k, v in one.items() if k != "hour"} for one in sent]
    url = f"http://127.0.0.1:{up.serving_port}"
    token = {"authorization": f"Bearer {up.token}"}
    inputs = [{"name": "placed_at", "datatype": "BYTES", "shape": [5], "data": [o["placed_at"] for o in kitchens]}]
    inputs += [
        {"name": n, "datatype": "BYTES" if n in ("kitchen", "order") else "FP64", "shape": [5], "data": [o[n] for o in lookups]}
        for n in lookups[0]
    ]
    reply = httpx.post(f"{url}/v2/models/composed/infer", json={"inputs": inputs}, headers=token, timeout=60)
    assert reply.status_code == 200, reply.text
    failed = []
    for one in kitchens:
        why = json.loads(tidemill("why", "--project", str(up.project), str(one["order"]), "--json"))
        failed += [s["state"] for s in why["graph"]["stations"] if s["node"] == "rush"]
    assert failed
    assert set(failed) == {"failed"}
    text = httpx.get(f"{url}/metrics", headers=token, timeout=60).text
    assert f'tidemill_serving_node_failures_total{{service="composed",node="rush",state="failed"}} {len(failed)}' in text


def test_listing_and_page_show_each_nodes_version(up: Up) -> None:
    (found,) = json.loads(tidemill("graph", "--project", str(up.project), "--json"))
    told = {n["node"]: (n["kind"], n["when"], n["version"]) for n in found["nodes"]}
    assert told["far"] == ("model", "yes", "1")
    assert told["alone"] == ("model", "30%", "1")
    assert told["now"] == ("model", "0.5", "1")
    assert len(told["rush"][2]) == 12
    assert "weighted, 2 of 3 must answer" in tidemill("graph", "--project", str(up.project), "composed")
    pages = console(up)
    page = pages.get("/services", params={"service": "composed"})
    assert page.status_code == 200, page.text
    assert "Inference graph of 6 nodes" in page.text
    (item,) = [s for s in pages.get("/api/v1/services").json()["items"] if s["name"] == "composed"]
    assert item["graph"] == found["nodes"]


@pytest.mark.parametrize(
    "words",
    [
        ["build", "composed", "--to", "out"],
        ["replay-traffic", "composed", "--model", "1"],
        ["predict", "batch", "composed", "--model", "1"],
    ],
)
def test_what_is_about_one_model_is_refused(up: Up, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tidemill(words[0], "--project", str(up.project), *words[1:], ok=(2,))
    assert not list(tmp_path.iterdir())
