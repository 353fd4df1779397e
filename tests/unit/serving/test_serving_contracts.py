"""What SageMaker, Vertex AI and Azure Machine Learning ask of a container."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LATE, LOOKUP, Local, Stack, run, sigmoid

from tidemill.core.errors import ConfigError, NotFoundError
from tidemill.platform.config import load_config
from tidemill.serving.contracts import Contract, contract_of

ROW = list(FULL.values())
SCORE = pytest.approx(sigmoid(1))


def asked(
    stack: Stack, contract: Contract, *sent: tuple[str, str, Any], headers: dict[str, str] | None = None
) -> list[tuple[int, Any, dict[str, str]]]:
    async def script(local: Local) -> list[tuple[int, Any, dict[str, str]]]:
        out = []
        for method, path, body in sent:
            reply = await local.ask(method, path, b"" if body is None else json.dumps(body).encode(), 1, **(headers or {}))
            text = reply.answer.decode()
            out.append((reply.status, json.loads(text) if text[:1] in ("{", "[") else text, dict(reply.headers)))
        return out

    got: list[tuple[int, Any, dict[str, str]]] = run(stack, script, token=True, contract=contract)
    return got


def test_where_a_platform_wants_the_server() -> None:
    assert contract_of("sagemaker", {}) == Contract("sagemaker", 8080, "/ping", "/invocations")
    assert contract_of("sagemaker", {"SAGEMAKER_BIND_TO_PORT": "9000"}).port == 9000
    assert contract_of("azureml", {}) == Contract("azureml", 5001, "/", "/score")
    given = {"AIP_HTTP_PORT": "7080", "AIP_HEALTH_ROUTE": "/healthz", "AIP_PREDICT_ROUTE": "/p"}
    assert contract_of("vertex", given) == Contract("vertex", 7080, "/healthz", "/p")
    made = contract_of("vertex", {"AIP_ENDPOINT_ID": "7", "AIP_DEPLOYED_MODEL_ID": "8"})
    assert (made.health, made.predict) == ("/v1/endpoints/7/deployedModels/8", "/v1/endpoints/7/deployedModels/8:predict")


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("sagemaker", {"SAGEMAKER_BIND_TO_PORT": "http"}, "SAGEMAKER_BIND_TO_PORT is 'http'"),
        ("vertex", {"AIP_HTTP_PORT": "0"}, "AIP_HTTP_PORT"),
        ("vertex", {"AIP_PREDICT_ROUTE": "predict"}, "AIP_PREDICT_ROUTE is 'predict'"),
    ],
)
def test_a_bad_environment_is_named(name: str, given: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        contract_of(name, given)


def test_no_such_platform() -> None:
    with pytest.raises(NotFoundError, match="did you mean 'vertex'"):
        contract_of("vertx", {})


def test_sagemaker_is_answered_without_a_token_on_its_paths_alone(stack: Stack) -> None:
    got = asked(
        stack,
        contract_of("sagemaker", {}),
        ("GET", "/ping", None),
        ("POST", "/invocations", {"instances": [ROW]}),
        ("POST", "/late/invocations", {"instances": [ROW]}),
        ("POST", "/v2/models/late/infer", {}),
        ("GET", "/metrics", None),
        ("GET", "/score", None),
    )
    assert [status for status, *_ in got] == [200, 200, 401, 401, 401, 404]
    assert got[1][1] == {"predictions": [SCORE]}


def test_vertex(stack: Stack) -> None:
    contract = contract_of("vertex", {"AIP_HEALTH_ROUTE": "/healthz", "AIP_PREDICT_ROUTE": "/v1/endpoints/7/deployedModels/8:predict"})
    got = asked(
        stack,
        contract,
        ("GET", "/healthz", None),
        ("POST", contract.predict, {"instances": [ROW, ROW]}),
        ("POST", contract.predict, {"instances": [LOOKUP], "parameters": {}}),
        ("POST", contract.predict, {"instances": [ROW[:2]]}),
        ("POST", contract.predict, {"instances": [ROW], "parameters": {"confidence": 0.5}}),
        ("POST", contract.predict, {"instances": []}),
        ("POST", contract.predict, {"instances": [ROW], "more": 1}),
        ("POST", contract.predict, {}),
        ("POST", "/invocations", {"instances": [ROW]}),
    )
    assert [status for status, *_ in got] == [200, 200, 200, 400, 400, 400, 400, 400, 401]
    assert (got[1][1], got[2][1]) == ({"predictions": [SCORE] * 2}, {"predictions": [SCORE]})
    assert got[3][1]["error"]["status"] == "INVALID_ARGUMENT"
    assert got[3][1]["error"]["code"] == 400
    assert "instances[0] has 2 values" in got[3][1]["error"]["message"]
    assert "parameters.confidence" in got[4][1]["error"]["message"]
    stack.deploy()
    assert asked(stack, contract, ("GET", "/healthz", None))[0][0] == 503


def test_azure(stack: Stack) -> None:
    split = {"columns": list(FULL), "index": [0, 1], "data": [ROW, ROW]}
    columns = {name: [value] * 2 for name, value in FULL.items()}
    shapes = [split, {"data": [ROW, ROW]}, [ROW, ROW], [FULL, FULL], columns]
    headers = {"x-ms-request-id": "req-1", "x-ms-client-request-id": "mine"}
    for shape in shapes:
        (alive, (status, scores, told)) = asked(
            stack, contract_of("azureml", {}), ("GET", "/", None), ("POST", "/score", {"input_data": shape}), headers=headers
        )
        assert alive[:2] == (200, "Healthy")
        assert (status, scores) == (200, [SCORE, SCORE])
        assert (told["x-ms-request-id"], told["x-ms-client-request-id"], told["tidemill-prediction-id"]) == ("req-1", "mine", "req-1")
    assert len(stack.log.find("req-1/0")) == 1
    bad = [
        {},
        {"input_data": []},
        {"input_data": [ROW[:1]]},
        {"input_data": {"columns": 1, "data": []}},
        {"data": [ROW]},
        {"input_data": 7},
    ]
    for status, told, _ in asked(stack, contract_of("azureml", {}), *[("POST", "/score", sent) for sent in bad]):
        assert (status, list(told)) == (400, ["message"])


def test_a_container_answers_for_one_service(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Stack(tmp_path / "other", replace(LATE, name="early"))
    for name in ("sagemaker", "vertex", "azureml"):
        with pytest.raises(ConfigError, match=r"serving\.service: early, late"):
            Local(stack, other, contract=contract_of(name, {}))


def test_what_the_configuration_takes(tmp_path: Path) -> None:
    given = load_config(tmp_path, ["serving.grpc_port=8402", "serving.service=late", "serving.contract=vertex"]).serving
    assert (given.grpc_port, given.service, given.contract) == (8402, "late", "vertex")
    with pytest.raises(ConfigError, match="contract"):
        load_config(tmp_path, ["serving.contract=heroku"])
