"""Each export runs on the real framework, in an environment of its own, and answers as the model does."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.serving_kit import free_port
from tests.support.small_project import ingested, tidemill
from tests.support.venvs import python_with

from tidemill.platform.root import Platform

pytestmark = [pytest.mark.live, pytest.mark.slow]
ROWS = [
    {"kitchen": "taco", "distance_km": 3.5, "items": 2.0, "recent__minutes_mean_3h": 31.0, "recent__count_3h": 4.0, "hour": 18.0},
    {"kitchen": "never seen", "distance_km": 9.0, "items": 1.0, "recent__minutes_mean_3h": 40.0, "recent__count_3h": 1.0, "hour": 3.0},
]


def rows(some: list[dict[str, Any]]) -> Any:
    return {"rows": some}


def instances(some: list[dict[str, Any]]) -> Any:
    return {"instances": some}


def tensors(some: list[dict[str, Any]]) -> Any:
    names = list(some[0])
    kinds = {str: "BYTES", float: "FP64"}
    return {"inputs": [{"name": n, "datatype": kinds[type(some[0][n])], "shape": [len(some)], "data": [r[n] for r in some]} for n in names]}


CASES: dict[str, tuple[list[str], str, Callable[[Any], Any], Callable[[Any], Any], tuple[str, ...]]] = {
    "fastapi": (["-m", "uvicorn", "app:app", "--port", "{port}"], "/predict", rows, lambda a: a["scores"], ()),
    "flask": (["-m", "waitress", "--listen=127.0.0.1:{port}", "--call", "app:create_app"], "/predict", rows, lambda a: a["scores"], ()),
    "bentoml": (["-m", "bentoml", "serve", "service:Kitchen", "--port", "{port}"], "/predict", rows, lambda a: a, ()),
    "mlserver": (["-m", "mlserver.cli.main", "start", "."], "/v2/models/kitchen/infer", tensors, lambda a: a["outputs"][0]["data"], ()),
    "kserve": (["model.py", "--http_port", "{port}", "--enable_grpc", "false"], "/v1/models/kitchen:predict", instances, lambda a: a["predictions"], ()),
    "seldon": (["-m", "mlserver.cli.main", "start", "."], "/v2/models/kitchen/infer", tensors, lambda a: a["outputs"][0]["data"], ()),
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("exports") / "kitchen")


@pytest.fixture(scope="module")
def want(project: Path) -> list[float]:
    platform = Platform.open(project)
    model = platform.runtime.load(platform.blobs.fetch(platform.registry.get("kitchen", 1).digest))
    scores = model.predict([[row[name] for name in model.features] for row in ROWS]).tolist()
    platform.close()
    return list(scores)


@pytest.mark.parametrize("framework", CASES)
def test_it_answers_as_the_model(project: Path, want: list[float], tmp_path: Path, framework: str) -> None:
    words, path, ask, read, more = CASES[framework]
    folder = tmp_path / "export"
    tidemill("export", "--project", str(project), "kitchen", "--to", framework, str(folder))
    python = python_with(framework, "-r", "requirements.txt", *more, folder=folder)
    port = free_port()
    if framework in ("mlserver", "seldon"):
        settings = json.loads((folder / "settings.json").read_text())
        ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
        (folder / "settings.json").write_text(json.dumps({**settings, **ports}))
    environment = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "BENTOML_DO_NOT_TRACK": "true",
        "PYTHONPATH": str(folder),
    }
    with (tmp_path / "log").open("wb") as log:
        command = [str(python), *(w.format(port=port) for w in words)]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        answer = _post(process, f"http://127.0.0.1:{port}{path}", ask(ROWS), tmp_path / "log")
        np.testing.assert_allclose(read(answer), want, rtol=1e-9)
        lacking = [{k: v for k, v in ROWS[0].items() if k != "distance_km"}]
        with pytest.raises(urllib.error.HTTPError) as refused:
            _send(f"http://127.0.0.1:{port}{path}", ask(lacking))
        assert 400 <= refused.value.code < 500
        assert "distance_km" in refused.value.read().decode()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _post(process: subprocess.Popen[bytes], url: str, body: Any, log: Path) -> Any:
    for _ in range(900):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return _send(url, body)
        except urllib.error.HTTPError as error:
            if error.code not in (404, 503):
                raise AssertionError(f"{error.code}: {error.read().decode()[:2000]}\n{log.read_text()[-3000:]}") from error
            time.sleep(0.2)
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


def _send(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)
