"""The context of an image: complete, locked, the same again, and a server from it answers as the project's own."""

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.serving_kit import free_port
from tests.support.small_project import asked, ingested, tidemill
from tests.support.venvs import python_with

from tidemill.platform.root import Platform

pytestmark = pytest.mark.slow
TOKEN = "0123456789abcdef0123456789abcdef"
ROW = {"kitchen": "taco", "distance_km": 3.5, "items": 2.0, "recent__minutes_mean_3h": 31.0, "recent__count_3h": 4.0, "hour": 18.0}
BODY = {"inputs": [{"name": n, "datatype": "BYTES" if isinstance(v, str) else "FP64", "shape": [1], "data": [v]} for n, v in ROW.items()]}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = ingested(tmp_path_factory.mktemp("build") / "kitchen")
    (folder / ".secret").write_text("not in an image")
    return folder


@pytest.fixture(scope="module")
def context(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("context") / "image"
    tidemill("build", "--project", str(project), "--to", str(into))
    return into


def test_what_is_in_it(context: Path, project: Path) -> None:
    names = {p.name for p in context.iterdir()}
    assert names == {
        "Dockerfile",
        ".dockerignore",
        "README.md",
        "image.json",
        "model",
        "project",
        "requirements.txt",
        "sbom.cdx.json",
        "wheels",
    }
    lines = (context / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9._-]+==[^ ]+", line) for line in lines)
    assert {line.partition("==")[0] for line in lines} >= {"tidemill", "lightgbm", "onnxruntime", "numpy", "granian"}
    assert not (context / "project" / ".secret").exists()
    assert not (context / "project" / ".tidemill").exists()
    assert (context / "project" / "definitions.py").read_bytes() == (project / "definitions.py").read_bytes()
    docker = (context / "Dockerfile").read_text()
    assert re.search(r"^USER (?!root)", docker, re.MULTILINE)
    assert docker.count("HEALTHCHECK") == docker.count("\nENTRYPOINT [") == docker.count("\nCMD [") == 1
    everything = "".join(p.read_text(errors="replace") for p in context.rglob("*") if p.suffix in (".txt", ".json", "") and p.is_file())
    assert "index-url" not in everything


def test_what_the_stack_names_comes_along(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    tidemill("build", "--project", str(project), "--to", str(tmp_path / "image"), "-o", "stack.runtime=numba:local")
    assert {"numba", "llvmlite"} <= {line.partition("==")[0] for line in (tmp_path / "image" / "requirements.txt").read_text().splitlines()}


def test_the_same_again(context: Path, project: Path, tmp_path: Path) -> None:
    tidemill("build", "--project", str(project), "--to", str(tmp_path / "again"))
    for path in sorted(p for p in context.rglob("*") if p.is_file()):
        assert (tmp_path / "again" / path.relative_to(context)).read_bytes() == path.read_bytes(), path
    assert "not empty" in subprocess.run(
        [sys.executable, "-m", "tidemill.cli", "build", "--project", str(project), "--to", str(tmp_path / "again")], capture_output=True, text=True, check=False
    ).stderr  # fmt: skip


def test_the_bill_of_materials_is_cyclonedx(context: Path) -> None:
    text = (context / "sbom.cdx.json").read_text()
    bill = json.loads(text)
    refs = [c["bom-ref"] for c in bill["components"]]
    assert len(refs) == len(set(refs))
    assert {d for item in bill["dependencies"] for d in item["dependsOn"]} <= set(refs)
    assert bill["components"][0]["hashes"][0]["content"] == json.loads((context / "image.json").read_text())["model"]["digest"][7:]
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    found = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)
    assert found is None, found


def test_wheels_beside_it_are_locked_by_their_digests(context: Path, project: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        said = tidemill("build", "--project", str(project), "--to", str(tmp_path / name), "--wheels", ok=(0, 5))
        if not (tmp_path / name / "sbom.cdx.json").exists():
            pytest.skip(f"wheels could not be had: {said}")
    one, two = ((tmp_path / name / "requirements.txt").read_text() for name in ("one", "two"))
    assert one == two, "the same again"
    found = dict(re.findall(r"^([a-z0-9._-]+)==\S+ --hash=sha256:([0-9a-f]{64})$", one, re.MULTILINE))
    assert sorted(found) == [line.partition("==")[0] for line in (context / "requirements.txt").read_text().splitlines()]
    assert sorted(found.values()) == sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "one" / "wheels").iterdir())
    bill = json.loads((tmp_path / "one" / "sbom.cdx.json").read_text())
    assert {c["name"]: c["hashes"][0]["content"] for c in bill["components"][1:]} == found
    assert "pip install --no-index --require-hashes" in (tmp_path / "one" / "Dockerfile").read_text()
    [wheel] = (tmp_path / "one" / "wheels").glob("alembic-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\n")
    words = [
        "install",
        "--no-index",
        "--require-hashes",
        "--find-links",
        "wheels",
        "--target",
        str(tmp_path / "into"),
        "-r",
        "requirements.txt",
    ]
    done = subprocess.run([sys.executable, "-m", "pip", *words], cwd=tmp_path / "one", capture_output=True, text=True, check=False)
    assert (done.returncode, "alembic" in done.stderr, "DO NOT MATCH THE HASHES" in done.stderr) == (1, True, True), done.stderr


def test_a_server_in_a_fresh_environment_answers_the_same(context: Path, project: Path, tmp_path: Path) -> None:
    python = python_with("image", "--find-links", "wheels", "-r", "requirements.txt", folder=context)
    [wheel] = (context / "wheels").iterdir()  # the environment is kept between runs, and its Tidemill may be that of another day
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(tmp_path / "now"), str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    docker = (context / "Dockerfile").read_text()
    entry, command = (json.loads(re.search(rf"^{word} (\[.*\])$", docker, re.MULTILINE)[1]) for word in ("ENTRYPOINT", "CMD"))  # type: ignore[index]
    words = [str(context) if w == "/app" else w for w in [*entry[1:], *command]]
    words[words.index("0.0.0.0")], words[words.index("8401")] = "127.0.0.1", str(port)
    environment = {"PATH": os.environ["PATH"], "TIDEMILL_STATE": str(tmp_path / "state"), "TIDEMILL_TOKEN": TOKEN, "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = str(tmp_path / "now")
    answer: Any = None
    with (tmp_path / "log").open("wb") as log:
        for _ in range(2):  # the second time on the state of the first
            process = subprocess.Popen([str(python), *words], env=environment, cwd=tmp_path, stdout=log, stderr=log)
            try:
                answer = _ask(port, process, tmp_path / "log")
                assert _health(python, context, environment).returncode == 0, "it follows the port"
            finally:
                process.terminate()
                assert process.wait(30) == 0
            gone = _health(python, context, environment)
            assert (gone.returncode, f"127.0.0.1:{port}" in gone.stderr, "not ready" in gone.stderr) == (1, True, True), gone.stderr
    platform = Platform.open(project)
    own = asyncio.run(asked(platform, json.dumps(BODY).encode())).json()
    platform.close()
    assert (answer["model_version"], answer["parameters"]["logged"]) == ("1", True)
    np.testing.assert_allclose(answer["outputs"][0]["data"], own["outputs"][0]["data"], rtol=5e-16)


def _health(python: Path, context: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = [str(python), "-m", "tidemill.cli.image", str(context), "health"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_platform_says_where_it_listens(context: Path, tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "TIDEMILL_STATE": str(tmp_path / "state"), "TIDEMILL_TOKEN": TOKEN, "SAGEMAKER_BIND_TO_PORT": str(port)}
    environment["TIDEMILL_OVERRIDES"] = "serving.contract=sagemaker"
    with (tmp_path / "log").open("wb") as log:
        words = [sys.executable, "-m", "tidemill.cli.image", str(context), "serve"]
        process = subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        _ask(port, process, tmp_path / "log")
        assert _health(Path(sys.executable), context, environment).returncode == 0
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10).status == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _ask(port: int, process: subprocess.Popen[bytes], log: Path) -> Any:
    headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/kitchen/infer", json.dumps(BODY).encode(), headers)
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            return json.load(urllib.request.urlopen(request, timeout=10))
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode() + log.read_text()) from error
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_model_that_was_changed_is_not_served(context: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(context, tmp_path / "image")
    with (tmp_path / "image" / "model" / "model.txt").open("a") as file:
        file.write("\n")
    environment = {**os.environ, "TIDEMILL_STATE": str(tmp_path / "state"), "TIDEMILL_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-m", "tidemill.cli.image", str(tmp_path / "image"), "serve", "--port", str(free_port())],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, "build it again" in done.stderr) == (4, True), done.stderr


def test_a_token_that_can_be_guessed_is_refused(context: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TIDEMILL_STATE": str(tmp_path / "state"), "TIDEMILL_TOKEN": "secret"}
    done = subprocess.run(
        [sys.executable, "-m", "tidemill.cli.image", str(context), "serve", "--port", str(free_port())],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, "nobody can guess" in done.stderr) == (2, True), done.stderr
