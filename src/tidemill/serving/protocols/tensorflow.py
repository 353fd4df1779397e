"""TensorFlow Serving's REST API: `/v1/models/NAME[/versions/N|/labels/L]`, with `:predict`, `:classify` and `:regress`.

Source: TensorFlow Serving, "RESTful API". A label is a role (live, canary, shadow) or an alias of the registry (champion, challenger)
whose version is deployed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.core.errors import InvalidError, TidemillError, not_found
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.http import Reply
from tidemill.serving.pages import described, reply
from tidemill.serving.plan import Plan
from tidemill.serving.protocol import Call
from tidemill.serving.protocols import reading
from tidemill.serving.protocols.base import Asked, Host, Route, json_reply

_SIGNATURE = "serving_default"
_DTYPES = {"FP64": "DT_DOUBLE", "INT64": "DT_INT64", "BYTES": "DT_STRING"}
_ANY: dict[str, Any] = {}
_PREDICT = {
    "application/json": {
        "type": "object",
        "properties": {"signature_name": {"type": "string"}, "instances": {"type": "array"}, "inputs": _ANY},
    }
}
_EXAMPLES = {
    "application/json": {
        "type": "object",
        "required": ["examples"],
        "properties": {
            "signature_name": {"type": "string"},
            "context": {"type": "object"},
            "examples": {"type": "array", "items": {"type": "object"}},
        },
    }
}


class TensorFlowServing:
    """[TensorFlow Serving's REST API](https://www.tensorflow.org/tfx/serving/api_rest); labels are the roles live, canary and shadow, or aliases like champion."""

    name = "TensorFlow Serving"
    paths = "`/v1/models`"

    def routes(self, _host: Host) -> Sequence[Route]:
        """Under `/v1/models`."""
        out: list[Route] = []
        model = "/v1/models/{service}"
        for path in (model, f"{model}/versions/{{version}}", f"{model}/labels/{{label}}"):
            out += [
                Route("GET", path, _status, "State of the deployed versions."),
                Route("GET", f"{path}/metadata", _metadata, "The signature: inputs and outputs."),
                Route("POST", f"{path}:predict", _predict, "Scores rows (instances) or columns (inputs).", "predict", takes=_PREDICT),
                Route("POST", f"{path}:classify", _classify, "Scores examples, one probability a class.", "predict", takes=_EXAMPLES),
                Route("POST", f"{path}:regress", _regress, "Scores examples, one number each.", "predict", takes=_EXAMPLES),
            ]
        return out

    def failure(self, status: int, reason: str) -> Reply:
        """`{"error": …}`."""
        return reply({"error": reason}, status)


async def _labelled(asked: Asked) -> None:
    """Turn the label of a path into the version it stands for."""
    label = asked.names.get("label")
    if label is None:
        return
    lineup = asked.endpoint.scorer.lineup
    roles = {d.role: d.version for d in lineup.deployments}
    asked.version = (
        roles[label] if label in roles else await asyncio.get_running_loop().run_in_executor(None, _aliased, asked.endpoint, label)
    )


def _aliased(endpoint: Endpoint, label: str) -> int:
    deployments, service = endpoint.scorer.lineup.deployments, endpoint.scorer.service.name
    try:
        version = endpoint.scorer.registry.get(deployments[0].model if deployments else service, label).version
    except TidemillError:
        version = 0
    if version not in {d.version for d in deployments}:
        raise not_found(f"label of {service} with a deployed version", label, [*(d.role for d in deployments), "champion", "challenger"])
    return version


async def _status(asked: Asked) -> Reply:
    await _labelled(asked)
    lineup = asked.endpoint.scorer.lineup
    states = [
        {"version": str(d.version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for d in sorted(lineup.deployments, key=lambda d: -d.version)
        if asked.version in (None, d.version)
    ]
    return reply({"model_version_status": states})


async def _metadata(asked: Asked) -> Reply:
    await _labelled(asked)
    told = described(asked.endpoint, asked.version)
    live = asked.endpoint.scorer.lineup.live
    version = asked.version or (0 if live is None else live.version)
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    inputs = {i["name"]: {"dtype": _DTYPES[i["datatype"]], "tensor_shape": shape, "name": i["name"]} for i in told["inputs"]}
    outputs = {"score": {"dtype": "DT_DOUBLE", "tensor_shape": shape, "name": "score"}}
    signature = {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}
    spec = {"name": told["name"], "signature_name": "", "version": str(version)}
    return reply({"model_spec": spec, "metadata": {"signature_def": {"signature_def": {_SIGNATURE: signature}}}})


def _read(asked: Asked, *known: str) -> dict[str, Any]:
    """The body's object, with nothing in it but the signature's name and these fields."""
    limit = asked.host.settings.max_body_bytes
    sent = reading.json_object(reading.unpacked(asked.body, asked.header("content-encoding").lower(), limit), nan=True)
    if unknown := sorted(sent.keys() - {*known, "signature_name"}):
        raise InvalidError(f"the body has the field {unknown[0]!r}; it takes signature_name, {', '.join(known)}")
    if sent.get("signature_name", _SIGNATURE) not in ("", _SIGNATURE):
        raise InvalidError(f"signature_name is {sent['signature_name']!r}; the one signature is {_SIGNATURE!r}")
    return sent


async def _predict(asked: Asked) -> Reply:
    sent = _read(asked, "instances", "inputs")
    if ("instances" in sent) == ("inputs" in sent):
        raise InvalidError("the body must have instances (row by row) or inputs (column by column), one of them")
    await _labelled(asked)
    plan, limits = asked.endpoint.scorer.plan, asked.host.settings
    if "instances" in sent:
        call, out = reading.of_instances(plan, sent["instances"], asked.new_id(), limits.max_rows), "predictions"
    else:
        call, out = _inputs(plan, sent["inputs"], asked.new_id(), limits.max_rows), "outputs"
    scored = await asked.score(call)
    return json_reply(msgspec.json.encode({out: scored.scores}), headers=scored.headers())


def _inputs(plan: Plan, inputs: Any, name: str, max_rows: int) -> Call:
    if isinstance(inputs, dict) and list(inputs) != ["b64"]:
        columns = inputs if any(isinstance(v, list) for v in inputs.values()) else {c: [v] for c, v in inputs.items()}
        return reading.of_columns(plan, columns, name, max_rows, "inputs")
    return reading.of_instances(plan, inputs, name, max_rows, "inputs")


async def _scored_examples(asked: Asked) -> tuple[list[float], list[tuple[str, str]]]:
    sent = _read(asked, "examples", "context")
    await _labelled(asked)
    examples, context = reading.listed(sent.get("examples"), "examples"), sent.get("context", {})
    if not isinstance(context, dict):
        raise InvalidError("context must be an object of features that all examples have")
    both = [context | example if isinstance(example, dict) else example for example in examples]
    limits = asked.host.settings
    call = reading.of_records(asked.endpoint.scorer.plan, both, asked.new_id(), limits.max_rows, "examples", fill=True)
    scored = await asked.score(call)
    return scored.scores, scored.headers()


async def _classify(asked: Asked) -> Reply:
    scores, headers = await _scored_examples(asked)
    if any(not 0 <= score <= 1 for score in scores):
        raise InvalidError(f"{asked.endpoint.scorer.service.name} does not classify: its scores are no probabilities; use :regress")
    return json_reply(msgspec.json.encode({"results": [[["0", 1 - score], ["1", score]] for score in scores]}), headers=headers)


async def _regress(asked: Asked) -> Reply:
    scores, headers = await _scored_examples(asked)
    return json_reply(msgspec.json.encode({"results": scores}), headers=headers)
