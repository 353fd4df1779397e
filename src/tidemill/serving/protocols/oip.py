"""Open Inference Protocol v2 over REST: what is more than JSON infer, which the server answers itself.

Source: the KServe "Open Inference Protocol", REST section; Triton's model repository and binary tensor extensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import Any

import msgspec

from tidemill.core.errors import InvalidError
from tidemill.serving import explain, protocol
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.http import JSON, Reply
from tidemill.serving.pages import described, reply
from tidemill.serving.protocols import binary
from tidemill.serving.protocols.base import Asked, Host, Route, Scored
from tidemill.serving.protocols.reading import unpacked

EXTENSIONS = ("model_repository", "model_repository(unload)", binary.EXTENSION, "parameters")
LENGTH = "inference-header-content-length"
DEGRADED = "tidemill-degraded"
"""Header of the readiness answer, whose body is the protocol's: what each service has to do without; /v2/health says more."""
_NO_VERSION = msgspec.json.Decoder(dict[str, Any]).decode


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_decode = msgspec.json.Decoder(_Request).decode
_BODY = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "datatype": {"type": "string", "enum": sorted(protocol.TENSORS)},
                    "data": {"type": "array"},
                },
            },
        },
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
    },
}
_TAKES = {"application/json": _BODY, "application/octet-stream": {"type": "string", "format": "binary"}}


class OpenInference:
    """[KServe's predict protocol](https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol) over REST, with repository and binary tensor data."""

    name = "Open Inference Protocol v2"
    paths = "`/v2`"

    def routes(self, _host: Host) -> Sequence[Route]:
        """Under `/v2`."""
        model, repository = "/v2/models/{service}", "/v2/repository/models/{service}"
        out = [
            Route("GET", "/v2", _server, "Name, version and extensions of the server."),
            Route("GET", "/v2/health/live", _live, "That the process answers.", None),
            Route(
                "GET",
                "/v2/health/ready",
                _ready,
                "That every service has a live model; 503 before. A header names what is gone meanwhile.",
                None,
            ),
            Route(
                "POST",
                "/v2/repository/index",
                _index,
                "Each deployed version with its state.",
                takes={"application/json": {"type": "object"}},
            ),
            Route("POST", f"{repository}/load", _load, "Looks for changed deployments at once.", "deploy"),
            Route("POST", f"{repository}/unload", _unload, "Lets go of a service's models, until they are loaded again.", "deploy"),
        ]
        for path in (model, model + "/versions/{version}"):
            out += [
                Route("GET", path, _metadata, "Inputs and outputs of a service."),
                Route("GET", f"{path}/ready", _model_ready, "Whether a service has a live model."),
                Route("POST", f"{path}/infer", infer, "Scores; entity keys only, or full inputs.", "predict", takes=_TAKES),
            ]
        return out

    def failure(self, status: int, reason: str) -> Reply:
        """`{"error": …}`."""
        return reply({"error": reason}, status)


def server_metadata() -> dict[str, Any]:
    """What the server says of itself."""
    return {"name": "tidemill", "version": installed("tidemill"), "extensions": list(EXTENSIONS)}


async def _server(_asked: Asked) -> Reply:
    return reply(server_metadata())


async def _live(_asked: Asked) -> Reply:
    return reply({"live": True})


async def _ready(asked: Asked) -> Reply:
    ready = asked.host.ready()
    status, headers, body = reply({"ready": ready}, 200 if ready else 503)
    without = ", ".join(f"{c.service}={c.cause}" for c in asked.host.conditions())
    return status, [*headers, (DEGRADED, without)] if without else headers, body


async def _metadata(asked: Asked) -> Reply:
    return reply(described(asked.endpoint, asked.version))


async def _model_ready(asked: Asked) -> Reply:
    ready = is_ready(asked.endpoint)
    return reply({"name": asked.endpoint.scorer.service.name, "ready": ready}, 200 if ready else 503)


def is_ready(endpoint: Endpoint) -> bool:
    """Whether a live model answers."""
    return endpoint.scorer.lineup.live is not None


def index(host: Host, *, ready: bool) -> list[dict[str, str]]:
    """Every deployed version, and those that could not be loaded with the reason. `ready`: only those that answer."""
    out: list[dict[str, str]] = []
    for name, endpoint in host.endpoints.items():
        lineup = endpoint.scorer.lineup
        out += [{"name": name, "version": str(d.version), "state": "READY", "reason": ""} for d in lineup.deployments]
        if not ready:
            out += [{"name": name, "version": "", "state": "UNAVAILABLE", "reason": why} for why in lineup.failures.values()]
            if lineup.live is None:
                out.append({"name": name, "version": "", "state": "UNAVAILABLE", "reason": endpoint.problem or "nothing is live"})
    return out


async def _index(asked: Asked) -> Reply:
    try:
        wanted = _NO_VERSION(asked.body) if asked.body.strip() else {}
    except msgspec.DecodeError as error:
        raise InvalidError(f"the body is not a JSON object: {error}") from error
    ready = wanted.get("ready", False)
    if not isinstance(ready, bool):
        raise InvalidError("'ready' is true or false")
    return reply(index(asked.host, ready=ready))


async def _load(asked: Asked) -> Reply:
    done = await asked.host.load(asked.endpoint)
    return reply({"changed": done}) if isinstance(done, bool) else reply({"error": done}, 409)


async def _unload(asked: Asked) -> Reply:
    asked.host.unload(asked.endpoint)
    return reply({})


# infer


async def infer(asked: Asked) -> Reply:
    """Score a request that may have binary tensors, a version in its path, or a content encoding."""
    body = unpacked(asked.body, asked.header("content-encoding").lower(), asked.host.settings.max_body_bytes)
    length, limits = asked.header(LENGTH), asked.host.settings
    plan = asked.endpoint.scorer.plan
    if not length and b"binary_data" not in body:
        call = protocol.read(body, plan, max_rows=limits.max_rows, make_id=asked.host.make_id)
        return 200, JSON, protocol.encode(await _scored(asked, call, body))
    request, tail = _split(body, length)
    inputs = _inputs(request.inputs, tail)
    wanted = None if request.outputs is None else [protocol.Wanted(output.name) for output in request.outputs]
    known = protocol.Request(inputs, request.id, request.parameters, wanted)
    call = protocol.understood(known, plan, max_rows=limits.max_rows, make_id=asked.host.make_id)
    answer = await _scored(asked, call, body[: int(length)] if length else body)
    return _packed(answer, _binary_outputs(request, [output["name"] for output in answer["outputs"]]))


async def _scored(asked: Asked, call: protocol.Call, body: bytes) -> dict[str, Any]:
    """The answer; with what each feature adds to it, if the request asks for that."""
    if not explain.wanted(body):
        return _answer(asked, await asked.score(call))
    scorer = asked.endpoint.scorer
    await asked.in_thread(call, explain.require, scorer, asked.version)
    scored = await asked.score(call)
    answer = _answer(asked, scored)
    answer["outputs"].append(await asked.in_thread(call, explain.tensor, scorer, scored.answers))
    return answer


def _answer(asked: Asked, scored: Scored) -> dict[str, Any]:
    return protocol.answered(scored.call, asked.endpoint.scorer.service.name, scored.answers, scored.logged)


def _split(body: bytes, length: str) -> tuple[_Request, bytes]:
    """The JSON of a request and the binary data behind it."""
    if length and (not length.isdecimal() or int(length) > len(body)):
        raise InvalidError(f"the header Inference-Header-Content-Length is {length!r}; it is the length of the JSON part, 1 to {len(body)}")
    size = int(length) if length else len(body)
    try:
        return _decode(body[:size]), body[size:]
    except msgspec.ValidationError as error:
        raise InvalidError(f"the request does not follow the protocol: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidError(
            f"the body is not JSON: {error} (binary data behind it need the header Inference-Header-Content-Length)"
        ) from error
    except RecursionError as error:
        raise InvalidError("the body is nested too deep") from error


def _inputs(given: Sequence[_Input], tail: bytes) -> list[Any]:
    out, at = list[Any](), 0
    for one in given:
        size = one.parameters.get("binary_data_size") if one.parameters else None
        if size is None:
            out.append(_plain(one))
            continue
        if one.data is not None:
            raise InvalidError(f"input {one.name!r} has both data and binary_data_size; send one of them")
        if type(size) is not int or size < 0 or at + size > len(tail):
            raise InvalidError(f"input {one.name!r} has binary_data_size {size!r}; {len(tail) - at} bytes of binary data are left")
        out.append(binary.tensor(one.name, one.datatype, one.shape, tail[at : at + size]))
        at += size
    if at != len(tail):
        raise InvalidError(f"{len(tail) - at} bytes of binary data belong to no input; binary_data_size of the inputs adds up to {at}")
    return out


def _plain(one: _Input) -> Any:
    """An input with its data in the JSON, checked as if it had come alone."""
    if one.data is None:
        raise InvalidError(f"input {one.name!r} has neither data nor binary_data_size")
    body = msgspec.json.encode({"inputs": [{"name": one.name, "datatype": one.datatype, "shape": one.shape, "data": one.data}]})
    return protocol.decoded(body).inputs[0]


def _binary_outputs(request: _Request, names: Sequence[str]) -> set[str]:
    """Which outputs the caller wants as binary data."""
    every = bool((request.parameters or {}).get("binary_data_output", False))
    said = {o.name: bool((o.parameters or {}).get("binary_data", every)) for o in request.outputs or ()}
    return {name for name in names if said.get(name, every)}


def _packed(answer: dict[str, Any], chosen: set[str]) -> Reply:
    if not chosen:
        return 200, JSON, protocol.encode(answer)
    tails = []
    for output in answer["outputs"]:
        if output["name"] in chosen:
            tails.append(binary.raw(output["datatype"], output.pop("data")))
            output["parameters"] = {"binary_data_size": len(tails[-1])}
    head = protocol.encode(answer)
    return 200, [("content-type", "application/octet-stream"), (LENGTH, str(len(head)))], b"".join([head, *tails])
