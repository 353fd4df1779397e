"""The paths that Vertex AI and Azure Machine Learning ask a container on; SageMaker's are those of MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.core.errors import ConfigError, InvalidError
from tidemill.serving.http import JSON, Reply
from tidemill.serving.pages import reply
from tidemill.serving.plan import Plan
from tidemill.serving.protocol import Call
from tidemill.serving.protocols import reading
from tidemill.serving.protocols.base import ID, Asked, Host, Route, json_reply

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_VERTEX = {
    "application/json": {
        "type": "object",
        "required": ["instances"],
        "properties": {"instances": {"type": "array", "minItems": 1}, "parameters": {"type": "object"}},
    }
}
_AZURE = {
    "application/json": {"type": "object", "required": ["input_data"], "properties": {"input_data": {}, "params": {"type": "object"}}}
}


def only_service(host: Host) -> str:
    """The service that a platform's container answers for. Raises `ConfigError` when there is not exactly one."""
    if len(host.endpoints) != 1:
        raise ConfigError(
            f"a container of {host.settings.contract.name if host.settings.contract else ''} answers for one service; "
            f"choose it with serving.service: {', '.join(sorted(host.endpoints)) or 'there is none yet'}"
        )
    return next(iter(host.endpoints))


class Vertex:
    """[Vertex AI's custom containers](https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements), with `serving.contract=vertex`: on the paths and the port that the variables `AIP_HEALTH_ROUTE`, `AIP_PREDICT_ROUTE` and `AIP_HTTP_PORT` name."""

    name = "Vertex AI"
    paths = "`AIP_PREDICT_ROUTE`, `AIP_HEALTH_ROUTE`, with `serving.contract=vertex`"

    def routes(self, host: Host) -> Sequence[Route]:
        """The two paths of the contract."""
        contract = host.settings.contract
        if contract is None or contract.name != "vertex":
            return ()
        only = only_service(host)
        return (
            Route("GET", contract.health, _healthy, "200 when the service has a live model, else 503.", None),
            Route("POST", contract.predict, _vertex, "Scores instances.", "predict", only, _VERTEX, is_open=True),
        )

    def failure(self, status: int, reason: str) -> Reply:
        """As Google's APIs tell errors."""
        return reply({"error": {"code": status, "message": reason, "status": _STATUS.get(status, "INVALID_ARGUMENT")}}, status)


async def _healthy(asked: Asked) -> Reply:
    ready = asked.host.ready()
    return reply({"ready": ready}, 200 if ready else 503)


async def _vertex(asked: Asked) -> Reply:
    sent = reading.json_object(asked.body)
    if unknown := sorted(sent.keys() - {"instances", "parameters"}):
        raise InvalidError(f"the body has the field {unknown[0]!r}; it takes instances and parameters")
    plan, limits = asked.endpoint.scorer.plan, asked.host.settings
    call = reading.of_instances(plan, sent.get("instances"), asked.new_id(), limits.max_rows)
    scored = await asked.score(reading.with_parameters(call, sent.get("parameters"), "parameters"))
    return json_reply(msgspec.json.encode({"predictions": scored.scores}), headers=scored.headers())


class AzureML:
    """[Azure Machine Learning's online endpoints](https://learn.microsoft.com/azure/machine-learning/how-to-deploy-custom-container), with `serving.contract=azureml`: `input_data` as its deployments of MLflow models take it, answered by a list. Azure's `x-ms-request-id` names the prediction."""

    name = "Azure Machine Learning"
    paths = "`/score`, `/`, with `serving.contract=azureml`"

    def routes(self, host: Host) -> Sequence[Route]:
        """`/score`, and `/` to see that it lives."""
        contract = host.settings.contract
        if contract is None or contract.name != "azureml":
            return ()
        only = only_service(host)
        return (
            Route("GET", contract.health, _alive, "That the process answers.", None),
            Route("POST", contract.predict, _score, "Scores input_data.", "predict", only, _AZURE, is_open=True),
        )

    def failure(self, status: int, reason: str) -> Reply:
        """`{"message": …}`, as its inference server tells errors."""
        return reply({"message": reason}, status)


async def _alive(_asked: Asked) -> Reply:
    return 200, [("content-type", "text/plain; charset=utf-8")], b"Healthy"


async def _score(asked: Asked) -> Reply:
    sent = reading.json_object(asked.body, nan=True)
    if "input_data" not in sent or sent.keys() - {"input_data", "params"}:
        raise InvalidError(f"the body must have input_data, and maybe params; it has {', '.join(sent) or 'nothing'}")
    name = asked.new_id() if asked.header(ID) else asked.named(asked.header("x-ms-request-id"), "x-ms-request-id")
    plan, limits = asked.endpoint.scorer.plan, asked.host.settings
    call = _input_data(plan, sent["input_data"], name, limits.max_rows)
    scored = await asked.score(reading.with_parameters(call, sent.get("params"), "params"))
    headers = [*scored.headers(), *((("x-ms-request-id", name),) if name.isascii() and name.isprintable() else ())]
    if client := asked.header("x-ms-client-request-id"):
        headers.append(("x-ms-client-request-id", client))
    return 200, [*JSON, *headers], msgspec.json.encode(scored.scores)


def _input_data(plan: Plan, data: Any, name: str, max_rows: int) -> Call:
    """A data frame split into columns and data, columns by name, or rows."""
    if not isinstance(data, dict):
        return reading.of_instances(plan, data, name, max_rows, "input_data")
    if "data" not in data or data.keys() - {"columns", "index", "data"}:
        return reading.of_columns(plan, data, name, max_rows, "input_data")
    return reading.of_split(plan, data, name, max_rows, "input_data")
