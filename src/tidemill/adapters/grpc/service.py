"""The methods of `GRPCInferenceService`, from bytes to bytes, on the endpoints that HTTP answers from too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import isfinite
from time import perf_counter
from typing import Any

from google.protobuf.message import DecodeError

from tidemill.adapters.grpc.messages import message
from tidemill.adapters.grpc.plain import plain
from tidemill.core.errors import ConflictError, InvalidError, UnavailableError
from tidemill.serving import explain, protocol
from tidemill.serving.admission import DeadlineError, limit, seconds_given, within
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.http import problem
from tidemill.serving.pages import described
from tidemill.serving.plan import Plan
from tidemill.serving.protocol import Call
from tidemill.serving.protocols import binary, deployed, oip
from tidemill.serving.server import ModelServer
from tidemill.serving.tokens import Action
from tidemill.serving.tracing import Timed

_Request, _Response, _Input, _Contents = map(
    message, ("ModelInferRequest", "ModelInferResponse", "InferInputTensor", "InferTensorContents")
)
_CONTENTS = {
    "FP64": "fp64_contents",
    "FP32": "fp32_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "INT16": "int_contents",
    "INT8": "int_contents",
    "UINT64": "uint64_contents",
    "UINT32": "uint_contents",
    "UINT16": "uint_contents",
    "UINT8": "uint_contents",
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
}
_LARGEST = {"INT16": 2**15, "INT8": 2**7, "UINT16": 2**16, "UINT8": 2**8, "UINT64": 2**63}
_CODES = {401: 16, 403: 7, 404: 5, 409: 9, 413: 8, 429: 8, 500: 13, 503: 14, 504: 4}
PROTOCOL = "Open Inference Protocol v2 over gRPC"
_UNTRACED: Mapping[str, str] = {}
INVALID_ARGUMENT, DEADLINE_EXCEEDED, UNIMPLEMENTED = 3, 4, 12
Answer = Callable[[bytes, str, float | None], Awaitable[bytes]]


def status_of(error: BaseException) -> tuple[int, str]:
    """GRPC's status code and the reason of an error; what was not raised on purpose is logged and told without its details."""
    status, reason = problem(error)
    return _CODES.get(status, INVALID_ARGUMENT), reason


class Infer:
    """A call of `ModelInfer` on its way: `future` is the endpoint's, `finish` makes the answer of it."""

    __slots__ = ("_app", "_call", "_endpoint", "_request", "_started", "future")

    def __init__(self, app: ModelServer, endpoint: Endpoint, started: float, call: Call, request: Any, future: asyncio.Future[Any]) -> None:
        self._app, self._endpoint, self._started, self._call, self._request, self.future = app, endpoint, started, call, request, future

    @property
    def traceparent(self) -> str:
        """Of the call's span, empty when it is not traced."""
        return "" if self._call.trace is None else self._call.trace.trace.traceparent

    def finish(self, future: asyncio.Future[Any]) -> bytes:
        """The answer's bytes. Raises what the endpoint raised, or that the call was cancelled."""
        self._app.in_flight -= 1
        error: BaseException | None = None
        try:
            answers, logged, *more = future.result()
            call, raw = self._call, len(self._request.raw_input_contents) > 0
            if len(answers) == 1 and call.wanted is None and not (raw or more or answers[0].degraded):
                return plain(call.id, call.ids[0], self._request.model_name, answers[0], logged or "degraded")
            told = protocol.answered(call, self._request.model_name, answers, logged or "degraded")
            told["outputs"] += more
            return _answer(told, raw=raw)
        except BaseException as raised:
            error = raised
            raise
        finally:
            _count(self._app, self._endpoint, self._started, error, self._call.id, self._call.trace)


def _count(app: ModelServer, endpoint: Endpoint, started: float, error: BaseException | None, of: str, trace: Timed | None) -> None:
    status = 200
    if error is not None:
        status = 504 if isinstance(error, DeadlineError | asyncio.CancelledError) else problem(error)[0]
        endpoint.metrics.errors[status] += 1
    took = perf_counter() - started
    endpoint.metrics.latency.observe(took)
    if trace is not None or app.settings.access_log:
        app.told(endpoint, of, status, took, trace, PROTOCOL)


class InferenceService:
    """Answers by method name: the request's bytes, its authorization and the seconds that its caller still waits, to the answer's bytes."""

    def __init__(self, app: ModelServer) -> None:
        self._app = app
        self._host = app.host
        self.methods: Mapping[str, Answer] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    async def _server_live(self, _data: bytes, _who: str, _left: float | None) -> bytes:
        return _bytes("ServerLiveResponse", live=True)

    async def _server_ready(self, _data: bytes, _who: str, _left: float | None) -> bytes:
        return _bytes("ServerReadyResponse", ready=self._host.ready())

    async def _model_ready(self, data: bytes, who: str, _left: float | None) -> bytes:
        _request, endpoint, _version = self._named("ModelReadyRequest", data, who)
        return _bytes("ModelReadyResponse", ready=oip.is_ready(endpoint))

    async def _server_metadata(self, _data: bytes, who: str, _left: float | None) -> bytes:
        self._app.access(who, "read")
        return _bytes("ServerMetadataResponse", **oip.server_metadata())

    async def _model_metadata(self, data: bytes, who: str, _left: float | None) -> bytes:
        _request, endpoint, version = self._named("ModelMetadataRequest", data, who)
        told = described(endpoint, version)
        tensor = message("TensorMetadata")
        shown = {side: [tensor(**one) for one in told[side]] for side in ("inputs", "outputs")}
        return _bytes("ModelMetadataResponse", name=told["name"], versions=told["versions"], platform=told["platform"], **shown)

    async def _index(self, data: bytes, who: str, _left: float | None) -> bytes:
        self._app.access(who, "read")
        ready = _parsed(message("RepositoryIndexRequest"), data).ready
        entry = message("ModelIndex")
        return _bytes("RepositoryIndexResponse", models=[entry(**one) for one in oip.index(self._host, ready=ready)])

    async def _load(self, data: bytes, who: str, _left: float | None) -> bytes:
        done = await self._host.load(self._repository("RepositoryModelLoadRequest", data, who))
        if isinstance(done, str):
            raise ConflictError(done)
        return _bytes("RepositoryModelLoadResponse")

    async def _unload(self, data: bytes, who: str, _left: float | None) -> bytes:
        self._host.unload(self._repository("RepositoryModelUnloadRequest", data, who))
        return _bytes("RepositoryModelUnloadResponse")

    def _repository(self, name: str, data: bytes, who: str) -> Endpoint:
        self._app.access(who, "deploy")
        return self._host.endpoint(_parsed(message(name), data).model_name)

    def _named(self, name: str, data: bytes, who: str, action: Action = "read") -> tuple[Any, Endpoint, int | None]:
        self._app.access(who, action)
        request = _parsed(message(name), data)
        endpoint = self._host.endpoint(request.name)
        return request, endpoint, deployed(endpoint, request.version or None)

    def infer(self, data: bytes, who: str, left: float | None, trace_headers: Mapping[str, str] = _UNTRACED) -> Infer:
        """Begin to answer a call of `ModelInfer`. Raises what is wrong with it."""
        started, endpoint, trace, of = perf_counter(), None, None, ""
        try:
            self._app.admit(1)
            self._app.access(who, "predict")
            request = _parsed(_Request, data)
            endpoint = self._host.endpoint(request.model_name)
            endpoint.metrics.requests += 1
            trace, of = self._app.begin(endpoint, trace_headers), request.id
            if left is not None and left <= 0:
                raise DeadlineError("the deadline has passed; nothing was computed")
            if not self._app.bound:
                raise UnavailableError("the server is still starting; ask again soon")
            call = self._call(request, endpoint.scorer.plan)
            call.version = deployed(endpoint, request.model_version or None)
            call.trace = trace
            self._host.check_time(call)
            wants = request.parameters[explain.PARAMETER].bool_param if explain.PARAMETER in request.parameters else False
            future: asyncio.Future[Any]
            seconds = seconds_given(None, call.parameters, self._app.settings.timeout_s)
            if wants:
                future = asyncio.ensure_future(within(lambda: _explained(endpoint, call), seconds, started))
            else:
                future = endpoint.submit(call)
                limit(future, seconds, started)
        except Exception as error:
            if endpoint is not None:
                _count(self._app, endpoint, started, error, of, trace)
            raise
        self._app.in_flight += 1
        return Infer(self._app, endpoint, started, call, request, future)

    def _call(self, request: Any, plan: Plan) -> Call:
        """The call that a request means. Raises `InvalidError`."""
        raw, given = request.raw_input_contents, request.inputs
        if raw:
            if len(raw) != len(given):
                raise InvalidError(f"raw_input_contents has {len(raw)} entries for {len(given)} inputs; send one an input, or none")
            if crossed := next((t.name for t in given if t.HasField("contents")), None):
                raise InvalidError(f"input {crossed!r} has contents, and there are raw_input_contents; send one of them")
            tensors = [binary.tensor(t.name, t.datatype, list(t.shape), data) for t, data in zip(given, raw, strict=True)]
        else:
            tensors = [_tensor(t) for t in given]
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in request.parameters.items()
        }
        wanted = [protocol.Wanted(output.name) for output in request.outputs] or None
        known = protocol.Request(tensors, request.id, parameters, wanted)
        return protocol.understood(known, plan, max_rows=self._host.settings.max_rows, make_id=self._host.make_id)


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidError(f"the message is no {kind.DESCRIPTOR.name}: {error}") from error


def _bytes(name: str, /, **fields: Any) -> bytes:
    out: bytes = message(name)(**fields).SerializeToString()
    return out


def _tensor(given: Any) -> protocol.Tensor:
    """An input from its typed contents."""
    name, kind, contents = given.name, given.datatype, given.contents
    field = _CONTENTS.get(kind)
    if field is None:
        told = "send it in raw_input_contents" if kind in protocol.TENSORS else f"known: {', '.join(sorted(_CONTENTS))}"
        raise InvalidError(f"input {name!r} has datatype {kind!r}, which has no contents of its own; {told}")
    data: list[Any] = list(getattr(contents, field))
    if not data and (other := [f.name for f, _ in contents.ListFields()]):
        raise InvalidError(f"input {name!r} is {kind}, whose values are in {field}; it has {other[0]}")
    if kind in ("FP64", "FP32"):
        data = data if isfinite(sum(data)) else _with_nulls(name, data)
    elif kind == "BYTES":
        data = [_text(name, value) for value in data]
    elif (limit := _LARGEST.get(kind)) and any(not (0 if kind[0] == "U" else -limit) <= value < limit for value in data):
        raise InvalidError(f"input {name!r} has a value outside of {kind}")
    return protocol.TENSORS[kind](name, list(given.shape), data)


def _with_nulls(name: str, data: list[Any]) -> list[Any]:
    """NaN as the missing value that it stands for."""
    if any(value in (float("inf"), float("-inf")) for value in data):
        raise InvalidError(f"input {name!r} has an infinite value; send finite numbers, or NaN for a missing value")
    return [value if value == value else None for value in data]


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidError(f"input {name!r} has a text that is not UTF-8: {error.reason}") from error


async def _explained(endpoint: Endpoint, call: Call) -> Any:
    """What the endpoint answers, and what each feature adds to it."""
    scorer, loop = endpoint.scorer, asyncio.get_running_loop()
    await loop.run_in_executor(None, explain.require, scorer, call.version)
    answers, logged = await endpoint.submit(call)
    return answers, logged, await loop.run_in_executor(None, explain.tensor, scorer, answers)


def _answer(told: dict[str, Any], *, raw: bool) -> bytes:
    out = _Response(model_name=told["model_name"], model_version=told["model_version"], id=told["id"])
    for name, value in told["parameters"].items():
        if isinstance(value, bool):
            out.parameters[name].bool_param = value
        else:
            out.parameters[name].string_param = value
    for output in told["outputs"]:
        kind, data = output["datatype"], output["data"]
        tensor = out.outputs.add(name=output["name"], datatype=kind, shape=output["shape"])
        for name, text in output.get("parameters", {}).items():
            tensor.parameters[name].string_param = text
        if raw:
            out.raw_output_contents.append(binary.raw(kind, data))
        else:
            getattr(tensor.contents, _CONTENTS[kind]).extend([value.encode() for value in data] if kind == "BYTES" else data)
    encoded: bytes = out.SerializeToString()
    return encoded
