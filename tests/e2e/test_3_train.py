"""Story 3: cached, resumable training. What ran is not run again, what changed is, and a killed run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from tests.e2e.conftest import Story

from tidemill.core.instants import DAY_US
from tidemill.ledger import schema
from tidemill.platform.doctor import examine
from tidemill.platform.root import Platform
from tidemill.platform.wiring import make_executor
from tidemill.retraining import manual

pytestmark = pytest.mark.xdist_group("story")
STEPS = {"training_set", "holdout", "tune", "fit", "evaluate", "register"}


def test_a_model_is_an_mlflow_directory_with_onnx_beside_the_native_file(platform: Platform) -> None:
    folder = platform.blobs.fetch(platform.registry.get("flight-delay", 1).digest)
    names = {p.name for p in folder.iterdir()}
    assert {"MLmodel", "model.onnx", "requirements.txt", "conda.yaml", "python_env.yaml", "tidemill.json"} <= names
    assert names & {"model.txt", "model.lgb"}
    assert "loader_module: mlflow.lightgbm" in (folder / "MLmodel").read_text()


def test_onnx_and_native_answer_equally(story: Story, platform: Platform) -> None:
    import lightgbm

    from tidemill.training import read_model, score

    version = platform.registry.get("flight-delay", 1)
    folder = platform.blobs.fetch(version.digest)
    served = list(platform.log.read("flight-delay", from_us=story.from_us, until_us=story.from_us + DAY_US, roles=("live",)))
    onnx = platform.runtime.load(folder).predict([p.values for p in served])
    model = read_model(folder)
    codes = {c: {v: float(i) for i, v in enumerate(values)} for c, values in model.categories.items()}
    x = np.array(
        [
            [codes[c].get(v, -1.0) if c in codes else (np.nan if v is None else v) for c, v in zip(p.columns, p.values, strict=True)]
            for p in served
        ]
    )
    assert lightgbm.__version__
    np.testing.assert_allclose(onnx, score(model, x), atol=1e-6)


def test_running_twice_is_all_cache_hits(story: Story, platform: Platform) -> None:
    service, until = platform.definitions.service(), story.from_us - 1
    first = manual.train(platform.loop, service, until_us=until, reason="first", actor="test")
    again = manual.train(platform.loop, service, until_us=until, reason="again", actor="test")
    assert first.status == again.status == "finished", first.error
    assert (again.ran, again.cached) == (0, len(STEPS))
    assert again.output.digest == first.output.digest


def _changed_helper(story: Story, folder: Path) -> tuple[Path, Path]:
    """Two copies of the project's code: `fit` calls a helper; in the second one line of the helper is another."""
    source = (story.project / "definitions.py").read_text()
    helper = "def smallest_leaf():\n    return {n}\n\n\n@tm.step\ndef fit("
    body = source.replace("@tm.step\ndef fit(", helper, 1).replace('"min_child_samples": 60', '"min_child_samples": smallest_leaf()', 1)
    out = []
    for n in (60, 61):
        copy = folder / f"code{n}"
        copy.mkdir()
        (copy / "definitions.py").write_text(body.replace("{n}", str(n)))
        out.append(copy)
    assert "smallest_leaf()" in body
    return out[0], out[1]


def test_one_changed_line_of_a_helper_reruns_exactly_what_reaches_it(story: Story, platform: Platform, tmp_path: Path) -> None:
    before, after = _changed_helper(story, tmp_path)
    until = story.from_us - 1
    old = platform.beside(before)
    result = manual.train(old.loop, old.definitions.service(), until_us=until, reason="helper", actor="test")
    assert result.status == "finished", result.error
    new = platform.beside(after)
    plans = {p.step: p for p in make_executor(new).plan(new.definitions.service().pipeline.graph(until=until))}
    assert {name for name, p in plans.items() if p.state == "cached"} == {"training_set", "holdout"}
    assert any("smallest_leaf" in reason for reason in plans["fit"].because), plans["fit"]
    assert any("smallest_leaf" in reason for reason in plans["tune"].because), plans["tune"]
    assert not any("smallest_leaf" in reason for reason in plans["evaluate"].because)


def test_explain_on_the_command_line_runs_nothing(story: Story, platform: Platform) -> None:
    command = [sys.executable, "-m", "tidemill.cli", "run", "--project", str(story.project), "-p", "until=2013-01-25", "--explain"]
    with platform.ledger.read() as db:
        runs = db.execute(sa.select(sa.func.count()).select_from(schema.run)).scalar_one()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "training_set" in done.stdout
    with platform.ledger.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(schema.run)).scalar_one() == runs


def test_a_run_killed_in_the_middle_goes_on(story: Story, tmp_path: Path) -> None:
    """kill -9 while `fit` sleeps: the run that follows takes the finished steps from the cache."""
    project = tmp_path / "flights"
    shutil.copytree(story.project, project, ignore=lambda folder, _: {"data"} if folder == str(story.project) else {"replay"})
    examine(project, fix=True)  # the copy's tables are told where they are now
    source = (project / "definitions.py").read_text()
    slow = source.replace(
        "x, y = tm.encode(rows)", "x, y = tm.encode(rows)\n    if trees == 120 and os.environ.get('SLOW'):\n        time.sleep(60)", 1
    )
    slow = slow.replace("trials=4, rows_limit=30_000", 'trials=2, rows_limit=5_000, fixed={"trees": 20}', 1)
    (project / "definitions.py").write_text(
        slow.replace("import lightgbm as lgb\n", "import os\nimport time\n\nimport lightgbm as lgb\n", 1)
    )
    command = [sys.executable, "-m", "tidemill.cli", "train", "--project", str(project), "--until", "2013-02-20"]
    ledger = Platform.open(project).ledger
    running = subprocess.Popen(command, env={**os.environ, "SLOW": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    query = sa.select(schema.step_run.c.status).where(schema.step_run.c.step == "tune").order_by(schema.step_run.c.at_us.desc())
    tuned = sa.select(sa.func.count()).select_from(schema.step_cache).where(schema.step_cache.c.step == "tune")
    with ledger.read() as db:
        before = db.execute(tuned).scalar_one()
    while True:
        with ledger.read() as db:
            if db.execute(tuned).scalar_one() > before:
                break
        assert running.poll() is None, (running.stderr.read() if running.stderr else b"").decode()
        assert time.monotonic() < until, str(query)
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    with ledger.read() as db:
        newest = (
            db.execute(sa.select(schema.run.c.id).where(schema.run.c.status == "finished").order_by(schema.run.c.started_us.desc()))
            .scalars()
            .first()
        )
        status = {
            row[0]: row[1]
            for row in db.execute(sa.select(schema.step_run.c.step, schema.step_run.c.status).where(schema.step_run.c.run_id == newest))
        }
    ledger.close()
    assert status["training_set"] == status["tune"] == "cached", status
    assert status["fit"] == "finished"
