"""TensorFlow Serving's REST API: rows and columns, classify and regress, versions and labels, status and metadata."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LOOKUP, Local, Reply, Stack, run, sigmoid

ROW = list(FULL.values())
SCORE = pytest.approx(sigmoid(1))


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    made = Stack(tmp_path)
    for version in (1, 2, 3):
        made.add(version)
    made.deploy(live=1, shadow=2)
    return made


def ask(stack: Stack, verb: str, sent: Any, name: str = "late", **headers: str) -> Reply:
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    got: Reply = run(stack, lambda local: local.ask("POST", f"/v1/models/{name}:{verb}", body, 1, **headers))
    return got


def b64(text: str) -> dict[str, str]:
    return {"b64": b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ({"instances": [FULL, FULL]}, {"predictions": [SCORE] * 2}),
        ({"instances": [ROW]}, {"predictions": [SCORE]}),
        ({"signature_name": "serving_default", "instances": [LOOKUP]}, {"predictions": [SCORE]}),
        ({"signature_name": "", "inputs": {n: [v, v] for n, v in FULL.items()}}, {"outputs": [SCORE] * 2}),
        ({"inputs": {n: [[v], [v]] for n, v in FULL.items()}}, {"outputs": [SCORE] * 2}),
        ({"inputs": FULL}, {"outputs": [SCORE]}),
        ({"instances": [FULL | {"sky__cover": b64("cloudy"), "carrier": b64("UA")}]}, {"predictions": [SCORE]}),
    ],
)
def test_predict(stack: Stack, sent: Any, answer: Any) -> None:
    got = ask(stack, "predict", sent, **{"tidemill-prediction-id": "p"})
    assert got.json() == answer
    assert {p.values for p in stack.log.read("late")} == {(3.0, "cloudy", "UA", 17.0, 6.0)}
    assert dict(got.headers)["tidemill-prediction-id"] == "p"


def test_classify_and_regress(stack: Stack) -> None:
    common = {k: v for k, v in FULL.items() if k != "hour"}
    for examples in ([FULL, FULL], [{k: [v] for k, v in FULL.items()}] * 2):
        assert ask(stack, "regress", {"examples": examples}).json() == {"results": [SCORE, SCORE]}
    got = ask(stack, "classify", {"context": common, "examples": [{"hour": 17.0}, {"hour": 18.0}]}).json()
    assert got == {"results": [[["0", pytest.approx(1 - sigmoid(1))], ["1", SCORE]]] * 2}


@pytest.mark.parametrize(
    ("path", "version"),
    [("", 1), ("/versions/2", 2), ("/labels/live", 1), ("/labels/shadow", 2), ("/labels/champion", 1), ("/labels/challenger", 2)],
)
def test_versions_and_labels(stack: Stack, path: str, version: int) -> None:
    stack.alias("champion", 1)
    stack.alias("challenger", 2)
    stack.alias("best", 3)

    async def script(local: Local) -> list[Reply]:
        base = f"/v1/models/late{path}"
        body = json.dumps({"instances": [FULL]}).encode()
        asked = [("POST", f"{base}:predict", body), ("GET", base, b""), ("GET", f"{base}/metadata", b"")]
        return [await local.ask(*one) for one in asked] + [await local.ask("POST", "/v1/models/late/labels/best:predict", body)]

    score, status, metadata, absent = run(stack, script)
    assert score.json() == {"predictions": [pytest.approx(sigmoid(version))]}
    states = status.json()["model_version_status"]
    assert [s["version"] for s in states] == (["2", "1"] if not path else [str(version)])
    assert states[0]["state"] == "AVAILABLE"
    assert states[0]["status"] == {"error_code": "OK", "error_message": ""}
    told = metadata.json()
    assert told["model_spec"] == {"name": "late", "signature_name": "", "version": str(version)}
    signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert (signature["inputs"]["hour"]["dtype"], signature["inputs"]["carrier"]["dtype"]) == ("DT_DOUBLE", "DT_STRING")
    assert signature["outputs"]["score"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert absent.status == 404
    assert "'best'" in absent.json()["error"]


BAD: dict[str, tuple[str, Any, int, str]] = {
    "no json": ("predict", b"{", 400, "not JSON"),
    "neither": ("predict", {}, 400, "one of them"),
    "both": ("predict", {"instances": [ROW], "inputs": [ROW]}, 400, "one of them"),
    "unknown field": ("predict", {"instances": [ROW], "parameters": {}}, 400, "'parameters'"),
    "signature": ("predict", {"signature_name": "embed", "instances": [ROW]}, 400, "'embed'"),
    "no base64": ("predict", {"instances": [FULL | {"carrier": {"b64": "%"}}]}, 400, "base64"),
    "base64 of a number": ("predict", {"instances": [FULL | {"carrier": {"b64": 7}}]}, 400, "base64"),
    "no list": ("predict", {"instances": 7}, 400, "must be a list"),
    "inputs a number": ("predict", {"inputs": 7}, 400, "must be a list"),
    "no examples": ("classify", {}, 400, "examples must be a list"),
    "empty examples": ("regress", {"examples": []}, 400, "at least one row"),
    "examples of lists": ("regress", {"examples": [ROW]}, 400, "examples[0] is a list"),
    "a context of lists": ("regress", {"examples": [FULL], "context": []}, 400, "context must be"),
    "instances to classify": ("classify", {"instances": [ROW]}, 400, "'instances'"),
    "unknown verb": ("embed", {"instances": [ROW]}, 404, "nothing is at"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(stack: Stack, name: str) -> None:
    verb, sent, status, reason = BAD[name]
    got = ask(stack, verb, sent)
    assert (got.status, list(got.json())) == (status, ["error"]), got.answer
    assert reason in got.json()["error"]


@pytest.mark.parametrize("name", ["lat", "late/versions/9", "late/versions/x", "late/labels/champion", "late/labels/x"])
def test_what_is_not_there(stack: Stack, name: str) -> None:
    assert ask(stack, "predict", {"instances": [ROW]}, name).status == 404


def test_a_regression_does_not_classify(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from tidemill.serving.protocols.base import Scored

    monkeypatch.setattr(Scored, "scores", property(lambda _: [17.0]))
    assert "use :regress" in ask(stack, "classify", {"examples": [FULL]}).json()["error"]
    assert ask(stack, "regress", {"examples": [FULL]}).json() == {"results": [17.0]}
