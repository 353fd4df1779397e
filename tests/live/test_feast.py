"""Real Feast in its own Python: a repository comes in with equal values, its SDK reads and pushes unchanged, a project goes out with equal values."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from tests.support.feast_repo import APPLY, HOUR, NOT_KEPT, UTC_US, feast_python, run_feast, same, write_data, write_repository
from tests.support.serving_kit import free_port

from tidemill.adapters.feast.importer import NotKeptError, import_repository
from tidemill.adapters.feast.repository import read_repository
from tidemill.core.clock import ReplayClock
from tidemill.core.instants import from_us
from tidemill.platform.root import Platform
from tidemill.retraining import loop
from tidemill.retraining.features import feed
from tidemill.serving import Tokens

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.xdist_group("feast")]
ENTITIES = {
    "courier_id": [1 + i % 13 for i in range(39)],
    "town": [("oslo", "bergen", "rome")[i // 13] for i in range(39)],
    "km": [0.5 + i for i in range(39)],
    "word": [f"w{i}" for i in range(39)],
}
REFERENCES = [
    *(f"shape:{n}" for n in ("trips", "rating", "pace", "home", "ok", "since")), "sky:rain", "streets:trips", "effort:per_km", "effort:busy",
]  # fmt: skip
PYTHON_MODE = ["weather:wet", "weather:said"]
"""Feast 0.67 leaves these out of an answer with full names, so they are read with short ones. A singleton it computes for the first row alone."""
READ = """
rows = [dict(zip(given['entities'], row)) for row in zip(*given['entities'].values())]
read = lambda features, full: store.get_online_features(features=features, entity_rows=rows, full_feature_names=full).to_dict()
out['service'] = read(store.get_feature_service('dispatch'), False)
out['names'] = read(given['references'], True)
if given.get('python'):
    out['python'] = read(given['python'], False)
    out['singleton'] = {'half': [store.get_online_features(features=['one:half'], entity_rows=[row]).to_dict()['half'][0] for row in rows]}
"""


@contextmanager
def served(project: Path, token: str) -> Iterator[str]:
    """`tidemill features serve` on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "tidemill.cli", "features", "--project", str(project), "serve", "--port", str(port)]
    with (project / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TIDEMILL_TOKEN": token})
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, (project / "serve.log").read_text()
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def taken_in(project: Path, **options: Any) -> Platform:
    """The project with everything ingested and materialized."""
    platform = Platform.open(project, **options)
    loop.ingest(platform.loop)
    feed(platform.loop)
    return platform


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A repository that Feast has materialized and read from, and the project made of it."""
    home, now = tmp_path_factory.mktemp("feast"), time.time_ns() // 1000
    repository = write_repository(home / "couriers", now)
    report = import_repository(repository, home / "project", python=feast_python())
    given = {"entities": ENTITIES, "references": REFERENCES, "python": PYTHON_MODE, "from_us": now - 72 * HOUR, "now_us": now + 1}
    answers = run_feast(repository, APPLY + READ, given)
    platform = taken_in(home / "project")
    token = Tokens(platform.ledger, platform.clock).make("sdk", "admin")
    platform.close()
    return {"home": home, "repository": repository, "report": report, "answers": answers, "token": token, "now": now}


def test_an_imported_project_serves_equal_values(imported: dict[str, Any]) -> None:
    assert (imported["report"].views, imported["report"].on_demand, imported["report"].services) == (3, 3, 1)
    with served(imported["home"] / "project", imported["token"]) as url:
        for key, body in (
            ("service", {"feature_service": "dispatch"}),
            ("names", {"features": REFERENCES, "full_feature_names": True}),
            ("python", {"features": PYTHON_MODE}),
            ("singleton", {"features": ["one:half"]}),
        ):
            reply = httpx.post(f"{url}/get-online-features", json={**body, "entities": ENTITIES}, headers=bearer(imported))
            answer = reply.json()
            got = {n: r["values"] for n, r in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)}
            theirs = imported["answers"][key]
            assert set(got) - {"courier_id", "town"} == set(theirs) - {"courier_id", "town"}
            for name in theirs if key == "singleton" else got:
                values = got[name]
                wrong = [(a, b) for a, b in zip(values, theirs[name], strict=True) if not same(a, b) and not times(a, b)]
                assert wrong == [], name
            assert all(sum(v is not None for v in values) > 5 for values in got.values())
            assert {"NOT_FOUND", "PRESENT"} <= {s for r in answer["results"] for s in r["statuses"]} or key in ("python", "singleton")


def times(a: Any, b: Any) -> bool:
    """A time is whole seconds on the wire; Feast's SDK shows it as a datetime."""
    return isinstance(a, int) and isinstance(b, str) and b.startswith(from_us(a * 1_000_000).isoformat(" ")[:19])


def bearer(imported: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {imported['token']}"}


def test_feasts_sdk_reads_and_pushes_through_us_unchanged(imported: dict[str, Any], tmp_path: Path) -> None:
    script = (
        READ
        + """
from feast import FeatureService
from feast.data_source import PushMode
now = pd.Timestamp.now(tz="UTC").floor("s")
row = {"courier_id": [1], "town": ["oslo"], "happened": [now], "written": [now], "trips": [777], "rating": [2.5], "pace": [2.5], "home": ["tromso"],
       "ok": [True], "since": [now]}
try:
    store.push("rides-live", pd.DataFrame(row), to=PushMode.ONLINE)
    out["pushed"] = "taken"
except Exception as error:
    out["pushed"] = str(error)
try:
    store._get_provider().online_store.get_online_features(
        config=store.config, features=FeatureService(name="none", features=[]), entity_rows=rows, registry=store.registry, project=store.project)
except Exception as error:
    out["missing"] = type(error).__name__
"""
    )
    with served(imported["home"] / "project", imported["token"]) as url:
        (tmp_path / "feature_store.yaml").write_text(
            f"project: couriers\nprovider: local\nregistry: {imported['repository']}/data/registry.db\noffline_store: {{type: duckdb}}\n"
            f"online_store: {{type: remote, path: '{url}'}}\nauth: {{type: oidc, token_env_var: TIDEMILL_TOKEN}}\n"
            "entity_key_serialization_version: 3\n"
        )
        got = run_feast(
            tmp_path, script, {"entities": ENTITIES, "references": REFERENCES, "python": PYTHON_MODE}, TIDEMILL_TOKEN=imported["token"]
        )
        for key in ("service", "names", "python", "singleton"):
            for name, values in got[key].items():
                theirs = imported["answers"][key][name]
                assert all(same(a, b) or times(a, b) for a, b in zip(values, theirs, strict=True)), name
        pushed = {
            "push_source_name": "rides-live",
            "to": "online_and_offline",
            "df": {"courier_id": [1], "town": ["oslo"], "happened": [from_us(time.time_ns() // 1000).isoformat()], "trips": [888], "rating": [2.5],
                   "pace": [2.5], "home": ["tromso"], "ok": [True], "since": [None]},
        }  # fmt: skip
        assert httpx.post(f"{url}/push", json=pushed, headers=bearer(imported)).status_code == 200
        ask = {"features": ["shape:trips"], "entities": {"courier_id": [1]}}
        assert httpx.post(f"{url}/get-online-features", json=ask, headers=bearer(imported)).json()["results"][1]["values"] == [888]
    assert got["missing"] == "FeatureServiceNotFoundException"
    assert "lacks" in got["pushed"], "two views read the table: a push by one view's columns would empty the other's"
    platform = taken_in(imported["home"] / "project")
    assert (
        platform.reader.read([platform.definitions.views["shape"]], [{"courier_id": 1}], time.time_ns() // 1000)[0]["shape__trips"] == 888
    )
    platform.close()


def test_what_cannot_be_kept_is_told_all_at_once(tmp_path: Path) -> None:
    more = {"more": NOT_KEPT, "helpers": "def doubled(x):\n    return x * 2\n"}
    repository = write_repository(tmp_path / "couriers", time.time_ns() // 1000, **more)
    read = read_repository(repository, feast_python())
    with pytest.raises(NotKeptError) as caught:
        import_repository(repository, tmp_path / "project", python=feast_python())
    told = {p.name: p.reason for p in caught.value.problems}
    assert set(told) == {"far", "live", "named", "narrow", "twice", "all_of_it"}
    for name, words in {
        "far": "BigQuerySource", "live": "KafkaSource", "named": "trips to journeys", "narrow": "--wider", "twice": "helpers", "all_of_it": "'form'",
    }.items():  # fmt: skip
        assert words in " ".join(p.reason for p in caught.value.problems if p.name == name), name
    assert not (tmp_path / "project").exists()
    assert len(read.views) == 7
    report = import_repository(repository, tmp_path / "project", python=feast_python(), skip=list(told))
    assert report.skipped == tuple(sorted(told))


PROJECT = """
import numpy as np
import tidemill as tm

SCALE = 2.0
courier, town = tm.Entity("courier", key="courier_id", description="who rides"), tm.Entity("town")
rides = tm.Table("rides", "files:data/rides.parquet", event_time="happened", known_time="written", key=("courier_id", "happened"), owner="ops")
rain = tm.Table("rain", "files:data/rain.parquet", event_time="seen", known_time="seen")
shape = tm.FeatureView("shape", courier, rides, [tm.latest("trips", "rating", "home", "pace", "ok", ttl="20h")], tags=("team=x",))
busy = tm.FeatureView(
    "busy", (courier, town), rides, [tm.count(over="3h", hop="5m"), tm.mean("rating", over="6h", hop="1h"), tm.latest("home", ttl="2h")]
)
sky = tm.FeatureView("sky", town, rain, [tm.latest("rain", ttl="36500d")], description="weather")


def scaled(x):
    return x * SCALE


@tm.on_demand
def per_km(shape__rating, km):
    return scaled(shape__rating) / km


@tm.on_demand
def risk__wet(sky__rain, per_km):
    return sky__rain * per_km


@tm.on_demand
def risk__many(busy__count_3h):
    return np.nan_to_num(busy__count_3h) > 2


dispatch = tm.FeatureService("dispatch", [shape, busy, "sky:rain", per_km, risk__wet, risk__many], owner="me")
"""
HISTORY = """
frame = pd.DataFrame({**given['spine'], 'event_timestamp': [at(us) for us in given['at_us']]})
features = [f'busy:{n}' for n in ('count_3h', 'rating_mean_6h', 'home')]
found = store.get_historical_features(frame.assign(row=range(len(frame))), features).to_df().sort_values('row')
out['history'] = json.loads(found[['count_3h', 'rating_mean_6h', 'home']].to_json(orient='columns'))
"""


def test_an_exported_project_answers_equally_in_feast(tmp_path: Path) -> None:
    feast_python()
    now = time.time_ns() // 1000
    project = tmp_path / "nat"
    write_data(project, now)
    (project / "definitions.py").write_text(PROJECT)
    taken_in(project).close()
    command = [sys.executable, "-m", "tidemill.cli", "feast", "export", "--project", str(project), "--json", str(tmp_path / "out")]
    report = subprocess.run(command, capture_output=True, check=True, timeout=300).stdout
    told = httpx.Response(200, content=report).json()
    rng = np.random.default_rng(3)
    spine = {"courier_id": rng.integers(1, 14, 300).tolist(), "town": rng.choice(["oslo", "bergen"], 300).tolist()}
    at_us = rng.integers(told["first_us"], told["now_us"], 300).tolist()
    given = {"entities": {k: v for k, v in ENTITIES.items() if k != "word"}, "references": ["busy:count_3h"], "spine": spine, "at_us": at_us,
             "from_us": told["first_us"] - 1, "now_us": told["now_us"] + 1}  # fmt: skip
    answers = run_feast(tmp_path / "out", APPLY + READ.replace("'dispatch'), False)", "'dispatch'), True)") + HISTORY, given)
    platform = Platform.open(project, clock=ReplayClock(told["now_us"]))
    compare_online(platform, given["entities"], answers["service"])
    rows = pa.table({**spine, "at": pa.array(at_us).cast(UTC_US)})
    joined = platform.offline.join(rows, [platform.definitions.views["busy"]], {"rides": platform.tables.scan("rides")})
    for name in ("count_3h", "rating_mean_6h", "home"):
        theirs = [answers["history"][name][str(i)] for i in range(300)]
        for ours, feast in zip(joined[f"busy__{name}"].to_pylist(), theirs, strict=True):
            assert same(ours, feast) or (name == "count_3h" and ours == 0 and feast is None), name
    platform.close()


def compare_online(platform: Platform, entities: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> None:
    from tidemill.features import apply_on_demand
    from tidemill.serving.feast import Reader, Schemas
    from tidemill.serving.feast.answer import OnlineRequest

    reader = Reader(platform.definitions, platform.lookup, apply_on_demand, Schemas(platform.tables, platform.clock), max_keys=1000)
    request = OnlineRequest(entities=entities, feature_service="dispatch", full_feature_names=True)
    answer = httpx.Response(200, content=reader.answer(request, platform.clock.now_us())).json()
    present = 0
    for name, result in zip(answer["metadata"]["feature_names"], answer["results"], strict=True):
        feast = theirs["per_km__per_km" if name == "per_km" else name]
        for ours, other, status in zip(result["values"], feast, result["statuses"], strict=True):
            assert same(ours, other) or (name == "busy__count_3h" and ours == 0 and other is None), (name, ours, other, status)
            present += ours is not None
    assert present > 200
