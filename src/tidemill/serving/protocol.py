"""Open Inference Protocol v2, REST: what a request may look like and how it is answered.

Source: the KServe "Open Inference Protocol" (predict protocol version 2), REST section. We add one liberty, JSON null for
a missing value, and read two request parameters of our own: none by default, `at` where the server allows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import or_
from types import GenericAlias
from typing import Annotated, Any, get_type_hints

import msgspec

from tidemill.core.errors import InvalidError, not_found
from tidemill.serving.plan import Plan
from tidemill.serving.tracing import Timed

_MAX_ID = 200
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class _Tensor(msgspec.Struct, tag_field="datatype", gc=False):
    name: str
    shape: list[int]


class Fp64(_Tensor, tag="FP64", gc=False):
    """64-bit floats, flat and row by row."""

    data: list[float | None]


class Fp32(_Tensor, tag="FP32", gc=False):
    """32-bit floats; JSON carries them as decimals, which are kept as they are written."""

    data: list[float | None]


class Int64(_Tensor, tag="INT64", gc=False):
    """Whole numbers."""

    data: list[_Int64 | None]


class Int32(_Tensor, tag="INT32", gc=False):
    """Whole numbers of 32 bits."""

    data: list[_Int32 | None]


class Bool(_Tensor, tag="BOOL", gc=False):
    """Truth values."""

    data: list[bool | None]


class Bytes(_Tensor, tag="BYTES", gc=False):
    """Texts, as JSON strings."""

    data: list[str | None]


class Fp16(_Tensor, tag="FP16", gc=False):
    """16-bit floats; JSON carries them as decimals, which are kept as they are written."""

    data: list[float | None]


class Int16(_Tensor, tag="INT16", gc=False):
    """Whole numbers of 16 bits."""

    data: list[Annotated[int, msgspec.Meta(ge=-(2**15), le=2**15 - 1)] | None]


class Int8(_Tensor, tag="INT8", gc=False):
    """Whole numbers of 8 bits."""

    data: list[Annotated[int, msgspec.Meta(ge=-(2**7), le=2**7 - 1)] | None]


class Uint64(_Tensor, tag="UINT64", gc=False):
    """Whole numbers from 0; those above 2**63 - 1 are refused."""

    data: list[Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None]


class Uint32(_Tensor, tag="UINT32", gc=False):
    """Whole numbers of 32 bits from 0."""

    data: list[Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] | None]


class Uint16(_Tensor, tag="UINT16", gc=False):
    """Whole numbers of 16 bits from 0."""

    data: list[Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)] | None]


class Uint8(_Tensor, tag="UINT8", gc=False):
    """Whole numbers of 8 bits from 0."""

    data: list[Annotated[int, msgspec.Meta(ge=0, le=2**8 - 1)] | None]


Tensor = Fp64 | Fp32 | Int64 | Int32 | Bool | Bytes | Fp16 | Int16 | Int8 | Uint64 | Uint32 | Uint16 | Uint8
TENSORS: dict[str, type[Tensor]] = {str(kind.__struct_config__.tag): kind for kind in Tensor.__args__}
"""By datatype."""
_FLOATS = Fp64 | Fp32 | Fp16
_TEXTS = Bytes | Bool


class Wanted(msgspec.Struct, gc=False):
    """An output that is asked for."""

    name: str


class _Rest(msgspec.Struct, kw_only=True):
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


class Request(msgspec.Struct, gc=False):
    """The body of `infer`."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


_flat = msgspec.json.Decoder(Request).decode


def _row_by_row(kind: Any) -> Any:
    """The kind of tensor whose data come as lists of values."""
    rows = GenericAlias(list, (get_type_hints(kind, include_extras=True)["data"],))
    return msgspec.defstruct(f"Nested{kind.__name__}", [("data", rows)], bases=(_Tensor,), tag=kind.__struct_config__.tag)


_nested_inputs: Any = GenericAlias(list, (reduce(or_, map(_row_by_row, TENSORS.values())),))
_nested = msgspec.json.Decoder(msgspec.defstruct("NestedRequest", [("inputs", _nested_inputs)], bases=(_Rest,), kw_only=True)).decode
encode = msgspec.json.Encoder().encode
OUTPUTS = ("score", "id", "model_version", "role")


@dataclass(slots=True, eq=False)
class Call:
    """One `infer` request, read. Either `inputs` (the model's, in order) or `requests` (columns by name, maybe to be looked up)."""

    id: str
    ids: list[str]
    requests: list[Mapping[str, Any]]
    inputs: list[tuple[Any, ...]] | None
    wanted: frozenset[str] | None = None
    at: str | None = None
    version: int | None = None
    trace: Timed | None = None
    parameters: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def read(body: bytes, plan: Plan, *, max_rows: int, make_id: Any) -> Call:
    """Read an `infer` body for a service.

    Args:
        body: JSON bytes.
        plan: the service's; says which columns there are.
        max_rows: more rows than this are refused.
        make_id: called for an id when the request brings none.

    Raises:
        InvalidError: malformed JSON, a wrong type, shape or value, an input or output that the service does not have; says where.
    """
    return understood(decoded(body), plan, max_rows=max_rows, make_id=make_id)


def understood(request: Request, plan: Plan, *, max_rows: int, make_id: Any = str) -> Call:
    """The call that a decoded request means; see `read`."""
    tensors = request.inputs
    if not tensors:
        raise InvalidError("inputs is empty; send one tensor per column, or one tensor 'x' of shape [rows, features]")
    rows = _rows(tensors, max_rows)
    name = request.id or make_id()
    if len(name) > _MAX_ID:
        raise InvalidError(f"the request id has {len(name)} characters; {_MAX_ID} at most")
    ids = [name] if rows == 1 else [f"{name}/{i}" for i in range(rows)]
    call = Call(name, ids, [], None, _wanted(request), _at(request))
    call.parameters = request.parameters
    first = tensors[0]
    if len(tensors) == 1 and first.name == "x" and "x" not in plan.columns:
        call.inputs = _matrix(first, rows, plan)
        call.requests = [{}] * rows
    else:
        _columns(tensors, rows, plan, call)
    return call


def decoded(body: bytes) -> Request:
    """The body's JSON, its data flat. Raises `InvalidError`."""
    try:
        return _flat(body)
    except msgspec.ValidationError as error:
        if b"[[" not in body and b"[ [" not in body:
            raise InvalidError(f"the request does not follow the protocol: {error}{_hint(error)}") from error
        try:
            return _flattened(_nested(body))
        except (msgspec.DecodeError, RecursionError):
            raise InvalidError(f"the request does not follow the protocol: {error}{_hint(error)}") from error
    except msgspec.DecodeError as error:
        raise InvalidError(no_json(body, error)) from error
    except UnicodeDecodeError as error:
        raise InvalidError(f"the body is not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise InvalidError("the body is nested too deep") from error


def _hint(error: msgspec.ValidationError) -> str:
    return f"; known datatypes: {', '.join(TENSORS)}" if str(error).endswith(".datatype`") else ""


def no_json(body: bytes, error: Exception) -> str:
    """Why a body is no JSON, and what to send in the place of what is not."""
    if not body.strip():
        return "the body is empty; send JSON"
    constant = next((name for name in (b"NaN", b"Infinity") if name in body), None)
    more = " (NaN and Infinity are not JSON; send null for a missing value)" if constant else ""
    return f"the body is not JSON: {error}{more}"


def _flattened(request: Any) -> Request:
    """A request whose data come row by row, as one whose data are flat."""
    tensors: list[Any] = []
    for tensor in request.inputs:
        shape, data = tensor.shape, tensor.data
        width = prod(shape[1:])
        if len(shape) < 2 or len(data) != shape[0] or any(len(row) != width for row in data):
            raise InvalidError(f"input {tensor.name!r} says shape {shape}, its data have another")
        tensors.append(TENSORS[tensor.__struct_config__.tag](tensor.name, shape, [value for row in data for value in row]))
    return Request(tensors, request.id, request.parameters, request.outputs)


def _rows(tensors: Sequence[Any], max_rows: int) -> int:
    rows = tensors[0].shape[0] if tensors[0].shape else -1
    if rows < 1:
        raise InvalidError(f"input {tensors[0].name!r} has shape {tensors[0].shape}; the first dimension is the number of rows, at least 1")
    if rows > max_rows:
        raise InvalidError(f"{rows} rows in one request; send {max_rows} at most")
    return int(rows)


def _wanted(request: Request) -> frozenset[str] | None:
    if request.outputs is None:
        return None
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise InvalidError(str(not_found("output", output.name, OUTPUTS)))
    return frozenset(output.name for output in request.outputs)


def _at(request: Request) -> str | None:
    at = request.parameters.get("at") if request.parameters else None
    if at is not None and not isinstance(at, str):
        raise InvalidError("the parameter 'at' is an ISO 8601 text")
    return at


def _matrix(tensor: Any, rows: int, plan: Plan) -> list[tuple[Any, ...]]:
    width, data = len(plan.columns), tensor.data
    if tensor.shape != [rows, width]:
        raise InvalidError(f"input 'x' has shape {tensor.shape}; {plan.service.name} takes [rows, {width}]: {', '.join(plan.columns)}")
    if isinstance(tensor, _TEXTS):
        raise InvalidError("input 'x' takes numbers: datatype FP64 or FP32")
    if len(data) != rows * width:
        raise InvalidError(f"input 'x' says shape {tensor.shape}, which is {rows * width} values, and has {len(data)}")
    if not isinstance(tensor, _FLOATS):
        data = [None if value is None else float(value) for value in data]
    return [tuple(data)] if rows == 1 else [tuple(data[i : i + width]) for i in range(0, rows * width, width)]


def _columns(tensors: Sequence[Any], rows: int, plan: Plan, call: Call) -> None:
    known = plan.known
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        name, data = tensor.name, tensor.data
        if name not in known:
            raise InvalidError(str(not_found(f"input of {plan.service.name}", name, known)))
        if name in columns:
            raise InvalidError(f"input {name!r} comes twice")
        if tensor.shape not in ([rows], [rows, 1]) or len(data) != rows:
            raise InvalidError(
                f"input {name!r} has shape {tensor.shape} and {len(data)} values; the first input has {rows} rows, so send [{rows}]"
            )
        columns[name] = data
    keys = columns.get(plan.service.key)
    if keys is not None:
        call.ids = _keys(keys, plan.service.key)
        if plan.service.key not in plan.used:
            del columns[plan.service.key]
    names = list(columns)
    call.requests = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)] if names else [{}] * rows


def _keys(values: list[Any], key: str) -> list[str]:
    ids = [str(value) for value in values if value is not None]
    if len(ids) != len(values) or any(not text or len(text) > _MAX_ID for text in ids):
        raise InvalidError(f"column {key!r} names the predictions: texts of 1 to {_MAX_ID} characters, none null")
    return ids


def answer(call: Call, model: str, answers: Sequence[Any], logged: bool | str) -> bytes:
    """The response to `call`: scores and prediction ids, row by row; versions and roles row by row too when they differ."""
    if len(answers) == 1 and call.wanted is None and not answers[0].degraded:
        return encode(_plain(call, model, answers[0], logged))
    return encode(answered(call, model, answers, logged))


class _Output(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class _Plain(msgspec.Struct, gc=False):
    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Any]
    outputs: list[_Output]


def _plain(call: Call, model: str, answer: Any, logged: bool | str) -> _Plain:
    """What most responses are, as a value that is written quickly: that of `answered` for one row."""
    outputs = [_Output("score", "FP64", (1,), [answer.score]), _Output("id", "BYTES", (1,), call.ids)]
    return _Plain(model, str(answer.version), call.id, {"role": answer.role, "logged": logged}, outputs)


def answered(call: Call, model: str, answers: Sequence[Any], logged: bool | str) -> dict[str, Any]:
    """The response as a value."""
    first, n = answers[0], len(answers)
    mixed = len({(a.version, a.role) for a in answers}) > 1
    outputs: list[dict[str, Any]] = [
        {"name": "score", "datatype": "FP64", "shape": [n], "data": [a.score for a in answers]},
        {"name": "id", "datatype": "BYTES", "shape": [n], "data": call.ids},
    ]
    wanted = call.wanted
    if mixed or (wanted and "model_version" in wanted):
        outputs.append({"name": "model_version", "datatype": "INT64", "shape": [n], "data": [a.version for a in answers]})
    if mixed or (wanted and "role" in wanted):
        outputs.append({"name": "role", "datatype": "BYTES", "shape": [n], "data": [a.role for a in answers]})
    if wanted is not None:
        outputs = [output for output in outputs if output["name"] in wanted]
    return {
        "model_name": model,
        "model_version": str(first.version),
        "id": call.id,
        "parameters": {"role": "mixed" if mixed else first.role, "logged": logged, **_degraded(answers)},
        "outputs": outputs,
    }


def _degraded(answers: Sequence[Any]) -> dict[str, str]:
    modes = {a.degraded for a in answers} - {""}
    return {"degraded": modes.pop() if len(modes) == 1 else "mixed"} if modes else {}


def metadata(plan: Plan, versions: Sequence[int], texts: frozenset[str], platform: str) -> dict[str, Any]:
    """Model metadata: every column that may be sent, the model's inputs first."""
    names = list(dict.fromkeys((*plan.columns, *plan.needs)))
    texts, numbers = texts | plan.texts, plan.numbers
    kinds = {n: "BYTES" if n in texts else "INT64" if n in numbers else "FP64" for n in names}
    return {
        "name": plan.service.name,
        "versions": [str(version) for version in versions],
        "platform": platform,
        "inputs": [{"name": n, "datatype": kind, "shape": [-1]} for n, kind in kinds.items()],
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [-1]}, {"name": "id", "datatype": "BYTES", "shape": [-1]}],
        "parameters": {"lookup": ", ".join(plan.needs)},
    }
