"""Bad input and faults: killed replays, reconcilers and servers, damaged artifacts, full disks, wrong settings."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from tests.support.faults import (
    FROM,
    POLICIES,
    TO,
    command,
    differences,
    end_state,
    eventually,
    killed_at_random,
    replay_command,
    rows,
    run_for,
    running,
    small_project,
)

from tidemill.core.errors import CorruptError, RefusedError
from tidemill.core.instants import parse_instant
from tidemill.features import apply_on_demand
from tidemill.ledger import schema
from tidemill.platform.replays import replay
from tidemill.platform.root import Platform
from tidemill.retraining import decisions, loop
from tidemill.retraining import replay as history
from tidemill.serving import Scorer, Tokens, compile_plan
from tidemill.serving.embedded import SqlitePredictionLog

pytestmark = pytest.mark.xdist_group("faults")
ORDER = {"kitchen": "taco", "distance_km": 3.2, "items": 2, "placed_at": "2024-01-14T19:00:00Z"}
IN_TESTS, SEEDS = 3, 20


@dataclass(frozen=True)
class Undisturbed:
    """A replay that nobody disturbed. `cpu_s`: what its process used."""

    project: Path
    state: dict[str, list[str]]
    cpu_s: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    project = small_project(tmp_path_factory.mktemp("undisturbed") / "kitchen")
    _, used = run_for(replay_command(project))
    return Undisturbed(project, end_state(project), used)


def test_the_replay_that_is_killed_has_a_whole_story(undisturbed: Undisturbed) -> None:
    """Otherwise the tests below would show little."""
    found = undisturbed.state
    assert len(found["eager: run"]) == 5
    assert len(found["never: run"]) == 1
    outcomes = Counter((r["kind"], r["outcome"]) for r in rows(undisturbed.project / ".tidemill" / "ledger.db", "SELECT * FROM decision"))
    assert outcomes["gate", "reject"] >= 1
    assert outcomes["rollout", "advance"] >= 1
    assert outcomes["rollout", "promote"] >= 2
    assert len(found["eager: predictions"]) > len(found["never: predictions"]) == 990


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n < IN_TESTS else pytest.mark.slow) for n in range(SEEDS)])
def test_a_replay_killed_at_random_ends_as_if_it_had_not_been(undisturbed: Undisturbed, tmp_path: Path, seed: int) -> None:
    project = small_project(tmp_path / "kitchen")
    assert killed_at_random(project, undisturbed.cpu_s, seed, kills=1 if seed < IN_TESTS else 4) >= 1
    assert differences(undisturbed.state, end_state(project)) == []


@pytest.mark.slow
def test_a_policy_ends_the_same_in_whichever_process_it_is(tmp_path: Path) -> None:
    """Where it lags behind, it is told many turns while it is at one, and reads tables as they were then."""
    lag, homes = 0, []
    for policies in (POLICIES, POLICIES[::-1]):
        slow = {"import lightgbm as lgb": "import time\n\nimport lightgbm as lgb", "    x, y = tm": "    time.sleep(1)\n    x, y = tm"}
        project = small_project(tmp_path / policies[0] / "kitchen", **slow)
        turns = project / ".tidemill" / "replay" / policies[1] / "turns"

        def look(_done: int, _of: int, _what: str, turns: Path = turns) -> None:
            nonlocal lag
            lag = max(lag, len(list(turns.iterdir())))

        replay(project, from_us=parse_instant(FROM), until_us=parse_instant(TO), policies=policies, progress=look)
        assert list(turns.iterdir()) == []
        homes.append(project / ".tidemill" if policies[0] == "eager" else turns.parent)
    assert lag > 4, "it never lagged two whole turns"
    for file, query in (
        ("ledger.db", "SELECT kind, outcome, subject, cause, evidence, at_us FROM decision"),
        ("ledger.db", "SELECT name, version, digest, metrics FROM model_version"),
        ("predictions.db", "SELECT id, version, role, at_us, score FROM prediction"),
    ):
        here, there = (sorted(map(str, rows(home / file, query))) for home in homes)
        assert here
        assert here == there


class KilledError(BaseException):
    """The process is gone."""


def _mortal(function: Callable[..., Any], seen: set[object], *, before: bool) -> Callable[..., Any]:
    """A function that kills its process the first time it is called with these times, from the first served tick on."""

    def call(*args: Any) -> Any:
        turns = [t for a in args if isinstance(a, history.Turn) for t in (a.now, a.until)]
        times = [a for a in args if isinstance(a, int)] + turns
        when = (*times, *(a for a in args if isinstance(a, str)))
        if when in seen or max(times) < parse_instant(FROM):
            return function(*args)
        seen.add(when)
        if not before:
            function(*args)
        raise KilledError

    return call


@pytest.mark.parametrize(
    ("module", "name", "before"),
    [
        pytest.param(
            history, "_mark", True, marks=pytest.mark.slow
        ),  # a whole tick done, and who went live by it would answer the tick once more
        pytest.param(history, "_in_all", True, marks=pytest.mark.slow),  # published, but no policy knows it yet
        pytest.param(history, "_in_all", False, marks=pytest.mark.slow),  # this policy is through, those of other processes may be
    ],
)
def test_every_tick_killed_at_its_weakest_points(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, before: bool
) -> None:
    project = small_project(tmp_path / "kitchen")
    _killed_at_every_tick(project, POLICIES, monkeypatch, module, name, before=before)
    assert differences(undisturbed.state, end_state(project)) == []


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_every_tick_of_a_policy_alone_killed_while_it_monitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    """Alone, it goes through history in this process."""
    calm, project = small_project(tmp_path / "calm" / "kitchen"), small_project(tmp_path / "kitchen")
    replay(calm, from_us=parse_instant(FROM), until_us=parse_instant(TO), policies=POLICIES[:1])
    _killed_at_every_tick(project, POLICIES[:1], monkeypatch, loop, "monitor", before=before)
    assert differences(end_state(calm, POLICIES[:1]), end_state(project, POLICIES[:1])) == []


def _killed_at_every_tick(
    project: Path, policies: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *, before: bool
) -> None:
    seen = set[object]()
    monkeypatch.setattr(module, name, _mortal(getattr(module, name), seen, before=before))
    for _ in range(100):
        try:
            replay(project, from_us=parse_instant(FROM), until_us=parse_instant(TO), policies=policies)
        except KilledError:
            continue
        break
    assert len(seen) >= 9


def test_a_trainer_and_a_reconciler_killed_within_a_run_end_the_run_once(tmp_path: Path) -> None:
    days = (datetime.now(UTC) - datetime(2024, 1, 12, tzinfo=UTC)).days  # held out: the present's last days have no rows
    slow = {"import lightgbm as lgb": "import time\n\nimport lightgbm as lgb", "    x, y = tm": "    time.sleep(1)\n    x, y = tm"}
    project = small_project(tmp_path / "kitchen", **slow, **{'last="5d"': f'last="{days}d"'})
    ledger, said = project / ".tidemill" / "ledger.db", tmp_path / "said"
    reconciler, trainer = (
        command(name, "--project", project, "-o", "retraining=never", "-o", "retraining.tick=1s", module="tidemill.cli.processes")
        for name in ("reconciler", "trainer")
    )

    def steps(*status: str) -> dict[str, dict[str, Any]]:
        try:
            found = rows(ledger, "SELECT * FROM step_run")
        except sqlite3.OperationalError:  # the ledger is being made
            return {}
        return {row["step"]: row for row in found if row["status"] in status}

    with running(reconciler, said) as first, running(trainer, said) as training:
        eventually(lambda: "fit" in steps("running"), training, said, within_s=300)
        for process in (training, first):
            process.kill()
            process.wait()
    done = steps("finished")
    assert "training_set" in done
    assert [row["status"] for row in rows(ledger, "SELECT * FROM run")] == ["running"]
    with running(reconciler, said) as second, running(trainer, said):
        eventually(lambda: bool(rows(ledger, "SELECT * FROM deployment WHERE role = 'live'")), second, said, within_s=300)
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
    assert [(row["status"], row["error"]) for row in rows(ledger, "SELECT * FROM run")] == [("finished", None)]
    assert {name: row["wall_ms"] for name, row in steps("finished").items() if name in done} == {n: r["wall_ms"] for n, r in done.items()}
    for table in ("cause", "model_version", "deployment"):
        assert len(rows(ledger, f"SELECT * FROM {table}")) == 1, table
    events = Counter(row["kind"] for row in rows(ledger, "SELECT * FROM event"))
    assert [events[kind] for kind in ("cause", "run.started", "run.finished", "model.registered", "deployment")] == [1] * 5
    assert events["batch.published"] == len(rows(ledger, "SELECT * FROM batch")) == 30


@dataclass
class Server:
    """A running model server of the project, and a way to ask it."""

    process: subprocess.Popen[bytes]
    url: str
    token: str

    def infer(self, id_: str, client: httpx.Client) -> Any:
        inputs = [
            {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP64", "data": [value]}
            for name, value in ORDER.items()
        ]
        answer = client.post(f"{self.url}/v2/models/kitchen/infer", json={"id": id_, "inputs": inputs})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def client(self) -> httpx.Client:
        return httpx.Client(headers={"authorization": f"Bearer {self.token}"}, timeout=20)


@contextmanager
def serving(project: Path, token: str, said: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    with running(command("server", "--project", project, "-o", f"serving.port={port}", module="tidemill.cli.processes"), said) as process:
        eventually(ready, process, said)
        yield Server(process, f"http://127.0.0.1:{port}", token)


@pytest.fixture(scope="module")
def token(undisturbed: Undisturbed) -> str:
    platform = Platform.open(undisturbed.project)
    made = Tokens(platform.ledger, platform.clock).make("test", "ml-engineer")
    platform.close()
    return made


def _ask_until_it_dies(server: Server, name: str, acknowledged: list[str]) -> None:
    with server.client() as client:
        for number in range(100_000):
            try:
                answer = server.infer(f"{name}-{number}", client)
            except httpx.TransportError:
                return
            if answer["parameters"]["logged"] is True:
                acknowledged.append(answer["id"])


def _kept(project: Path) -> Counter[str]:
    """How often each prediction that a server has answered since the replay is in the log."""
    log = SqlitePredictionLog(project / ".tidemill" / "predictions.db")
    kept = Counter(p.id for p in log.read("kitchen", from_us=parse_instant(TO), roles=("live", "canary")))
    log.close()
    return kept


def _kill_rounds(project: Path, token: str, said: Path, rounds: int) -> None:
    acknowledged: list[str] = []
    chance = random.Random(rounds)
    for turn in range(rounds):
        before = len(acknowledged)
        with serving(project, token, said) as server:
            asking = [threading.Thread(target=_ask_until_it_dies, args=(server, f"of-{rounds}-{turn}-{n}", acknowledged)) for n in range(4)]
            for thread in asking:
                thread.start()
            while len(acknowledged) < before + 20:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.3))
            server.process.kill()
            for thread in asking:
                thread.join()
    kept = _kept(project)
    assert [name for name in acknowledged if kept[name] != 1] == []
    assert set(kept.values()) == {1}


def test_a_server_killed_under_load_loses_no_acknowledged_prediction(undisturbed: Undisturbed, token: str, tmp_path: Path) -> None:
    _kill_rounds(undisturbed.project, token, tmp_path / "said", 3)


@pytest.mark.slow
def test_a_server_killed_under_load_50_times_loses_no_acknowledged_prediction(undisturbed: Undisturbed, token: str, tmp_path: Path) -> None:
    _kill_rounds(undisturbed.project, token, tmp_path / "said", 50)


def test_on_a_full_disk_the_server_goes_on_and_says_that_logging_is_degraded(undisturbed: Undisturbed, token: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("the limit of another process's files can only be set on Linux")
    with serving(undisturbed.project, token, tmp_path / "said") as server, server.client() as client:

        def log() -> Mapping[str, Any]:
            found: Mapping[str, Any] = client.get(f"{server.url}/v2/health").json()["logging"]
            return found

        assert server.infer("full-0", client)["parameters"]["logged"] is True
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
        answered = [server.infer(f"full-{n}", client)["parameters"]["logged"] for n in range(1, 6)]
        assert answered == ["degraded"] * 5
        assert log()["state"] == "degraded"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        eventually(lambda: log()["state"] == "ok", server.process, tmp_path / "said", 20)
        assert server.infer("full-6", client)["parameters"]["logged"] is True
    kept = _kept(undisturbed.project)
    assert {name: n for name, n in kept.items() if name.startswith("full-")} == {f"full-{n}": 1 for n in range(7)}


@pytest.fixture
def platform(undisturbed: Undisturbed, tmp_path: Path) -> Iterator[Platform]:
    """A copy of the project as the replay left it, opened."""
    project = tmp_path / "kitchen"
    shutil.copytree(undisturbed.project, project)
    opened = Platform.open(project)
    yield opened
    opened.close()


def _scorer(platform: Platform) -> Scorer:
    service = platform.definitions.service()
    plan = compile_plan(service, platform.reader, apply_on_demand)
    return Scorer(service, plan, platform.router, platform.runtime, platform.registry, platform.blobs, platform.log)


def _answers(scorer: Scorer, id_: str) -> int:
    at_us = parse_instant(TO)
    request = {**ORDER, "placed_at": at_us}
    (answer,) = scorer.answer([request], scorer.plan.inputs([request], [at_us]), [id_], [at_us])
    return answer.version


def test_a_damaged_artifact_is_refused_with_both_digests_and_the_old_model_goes_on(platform: Platform) -> None:
    service = platform.definitions.service()
    live = platform.registry.get(service.name, "champion")
    other = next(v for v in platform.registry.versions(service.name) if v.version != live.version)
    folder = platform.blobs.fetch(other.digest)
    scorer = _scorer(platform)
    scorer.refresh()
    path = folder / "model.onnx"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(body)
    with pytest.raises(CorruptError) as refused:
        decisions.promote(platform.loop, service, other.version, "test")
    said = str(refused.value)
    assert other.digest in said
    assert said.count("sha256:") >= 2
    assert "model.onnx" in said
    assert platform.registry.get(service.name, "champion").version == live.version, "it was not deployed"
    assert _answers(scorer, "damaged-1") == live.version
    with platform.ledger.write() as db:  # a server that is told to serve it all the same, because it was damaged behind the promotion
        table = schema.deployment
        ours = (table.c.service == service.name) & (table.c.role == "live")
        db.execute(sa.update(table).where(ours).values(version=other.version))
    with pytest.raises(CorruptError, match=other.digest):
        scorer.refresh()
    assert _answers(scorer, "damaged-2") == live.version


def test_a_pickle_model_is_refused(platform: Platform, tmp_path: Path) -> None:
    service = platform.definitions.service()
    live = platform.registry.get(service.name, "champion")
    folder = tmp_path / "model"
    shutil.copytree(platform.blobs.fetch(live.digest), folder)
    (folder / "weights.bin").write_bytes(pickle.dumps(os.getcwd))
    digest = platform.blobs.put(folder)
    made = platform.registry.register(service.name, digest, run_id="run-by-hand", metrics={}, meta=live.meta, at_us=live.at_us + 1)
    with pytest.raises(RefusedError, match=r"weights\.bin is a pickle"):
        decisions.promote(platform.loop, service, made.version, "test")
    assert platform.registry.get(service.name, "champion").version == live.version


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("conf/config.yaml", "serving: {prot: 1}\n", ["conf/config.yaml", "serving.prot", "port"]),
        ("conf/config.yaml", "serving: {port: many}\n", ["conf/config.yaml", "serving.port", "whole number", "many"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, file: str, text: str, said: list[str]) -> None:
    project = small_project(tmp_path / "kitchen")
    path = project / file
    path.write_text(path.read_text() + text)
    done = subprocess.run(command("runs", "--project", project), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert all(part in done.stderr for part in said), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, "one line, no traceback"
