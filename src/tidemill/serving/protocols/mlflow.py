"""MLflow's scoring protocol, and with it SageMaker's container contract, whose paths are the same.

Source: MLflow's documentation of the scoring server (`/invocations`, `/ping`, `/health`, `/version`) and Amazon SageMaker's
"Use Your Own Inference Code with Hosting Services". From the latter come CSV without a header, JSON lines, and the Accept header.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from tidemill.core.errors import InvalidError
from tidemill.serving.http import JSON, NotAcceptableError, Reply, UnsupportedError
from tidemill.serving.pages import texts_of
from tidemill.serving.plan import Plan
from tidemill.serving.protocol import Call
from tidemill.serving.protocols import reading
from tidemill.serving.protocols.base import Asked, Host, Route, Scored, json_reply
from tidemill.serving.protocols.oip import is_ready
from tidemill.serving.protocols.platforms import only_service

VERSION = "3.0.0"
"""MLflow's scoring protocol is the one of this version."""
_FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_CODES = {
    401: "CUSTOMER_UNAUTHORIZED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TEXT = [("content-type", "text/plain; charset=utf-8")]
_LINES = "application/jsonlines"
_KINDS = ("application/json", "text/csv", _LINES)
_ANY: dict[str, Any] = {"type": "string"}
TAKES = {
    "application/json": {
        "type": "object",
        "minProperties": 1,
        "properties": {
            "dataframe_split": {
                "type": "object",
                "required": ["columns", "data"],
                "properties": {"columns": {"type": "array", "items": _ANY}, "data": {"type": "array", "items": {"type": "array"}}},
            },
            "dataframe_records": {"type": "array", "items": {"type": "object"}},
            "instances": {"type": "array"},
            "inputs": {},
            "params": {"type": "object"},
        },
    },
    "text/csv": _ANY,
    _LINES: _ANY,
}


class MLflow:
    """[MLflow's scoring server](https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/): with one service at the root, always under its name; SageMaker's containers have the same paths."""

    name = "MLflow and SageMaker"
    paths = "`/invocations`, `/ping`, `/version`, and under `/SERVICE`; SageMaker's port with `serving.contract=sagemaker`"

    def routes(self, host: Host) -> Sequence[Route]:
        """At the root for one service, under its name for each."""
        only = None if host.only is None else next(iter(host.endpoints))
        is_open = host.settings.contract is not None and host.settings.contract.name == "sagemaker" and only_service(host) == only
        told = "Scores dataframe_split, dataframe_records, instances, inputs, CSV or JSON lines."
        out = [
            Route("POST", "/invocations", invocations if only else _which, told, "predict", only, TAKES, is_open=is_open),
            Route("POST", "/{service}/invocations", invocations, told, "predict", takes=TAKES),
            Route("GET", "/version", _version, "The version of MLflow whose protocol this is."),
            Route("GET", "/{service}/version", _version, "The same."),
        ]
        for path in ("/ping", "/health"):
            out.append(Route("GET", path, ping, "200 when every service has a live model, else 404.", None))
            out.append(Route("GET", f"/{{service}}{path}", ping, "200 when the service has a live model, else 404.", None))
        return out

    def failure(self, status: int, reason: str) -> Reply:
        """`{"error_code": …, "message": …}`; for another content type than those read, a text."""
        if status in (406, 415):
            return status, _TEXT, reason.encode()
        return json_reply(msgspec.json.encode({"error_code": _CODES.get(status, "BAD_REQUEST"), "message": reason}), status)


async def ping(asked: Asked) -> Reply:
    """Whether the models answer."""
    ready = asked.host.ready() if asked.found is None else is_ready(asked.found)
    return 200 if ready else 404, JSON, b"\n"


async def _version(_asked: Asked) -> Reply:
    return 200, JSON, VERSION.encode()


async def _which(asked: Asked) -> Reply:
    paths = [f"/{name}/invocations" for name in sorted(asked.host.endpoints)]
    raise InvalidError(f"this server has {len(paths)} services, so say which: {', '.join(paths) or 'none yet'}")


async def invocations(asked: Asked) -> Reply:
    """Score a body of any of the content types, and answer in the one that is accepted."""
    wanted = _accepted(asked.header("accept"))
    kind, parameters = _content_type(asked.header("content-type"))
    limits = asked.host.settings
    body = reading.unpacked(asked.body, asked.header("content-encoding").lower(), limits.max_body_bytes)
    plan, name = asked.endpoint.scorer.plan, asked.new_id()
    if kind == "text/csv":
        header = {"present": True, "absent": False}.get(parameters.get("header", ""))
        texts = texts_of(asked.endpoint)
        call = reading.of_csv(plan, reading.utf8(body), name, limits.max_rows, texts, header=header)
    elif kind == _LINES:
        call = reading.of_instances(plan, reading.json_lines(body), name, limits.max_rows, "line")
    else:
        call = of_json(plan, reading.json_object(body, nan=True), name, limits.max_rows)
    return _reply(await asked.score(call), wanted)


def of_json(plan: Plan, sent: dict[str, Any], name: str, max_rows: int) -> Call:
    """A call from one of the four JSON shapes, with `params`."""
    formats = [f for f in _FORMATS if f in sent]
    if len(formats) != 1 or sent.keys() - {*_FORMATS, "params"}:
        raise InvalidError(
            f"the body must have exactly one of {', '.join(_FORMATS)}, and maybe params; it has {', '.join(sent) or 'nothing'}"
        )
    where, value = formats[0], sent[formats[0]]
    if where == "dataframe_split":
        call = reading.of_split(plan, value, name, max_rows, where)
    elif where == "dataframe_records":
        call = reading.of_records(plan, reading.listed(value, where), name, max_rows, where, fill=True)
    elif where == "inputs" and isinstance(value, dict):
        columns = value if any(isinstance(v, list) for v in value.values()) else {c: [v] for c, v in value.items()}
        call = reading.of_columns(plan, columns, name, max_rows, where)
    else:
        call = reading.of_instances(plan, value, name, max_rows, where)
    return reading.with_parameters(call, sent.get("params"), "params")


def _content_type(header: str) -> tuple[str, dict[str, str]]:
    kind, *rest = [part.strip() for part in header.split(";")]
    kind = kind.lower() or _KINDS[0]
    parameters = {key.strip().lower(): value.strip().lower() for key, _, value in (part.partition("=") for part in rest)}
    if parameters.get("charset", "utf-8") != "utf-8":
        raise UnsupportedError("this server reads UTF-8 only")
    if kind not in _KINDS:
        raise UnsupportedError(f"this server reads {', '.join(_KINDS)}, not {kind}")
    known = {"charset", "header", "label_size"} if kind == "text/csv" else {"charset"}
    if unknown := sorted(parameters.keys() - known):
        raise UnsupportedError(f"unknown parameter of the content type: {', '.join(unknown)}")
    if parameters.get("header", "absent") not in ("present", "absent") or parameters.get("label_size", "0") != "0":
        raise UnsupportedError("of text/csv this server reads header=present, header=absent and label_size=0")
    return kind, parameters


def _accepted(header: str) -> str:
    """The content type that is liked best of those that can be written (RFC 9110, 12.5.1)."""
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        kind, *parameters = (text.strip() for text in part.split(";"))
        weights[kind or "*/*"] = _weight(parameters)
    for kind in sorted(weights, key=lambda kind: -weights[kind]):
        for known in _KINDS:
            if weights[kind] > 0 and kind in (known, "*/*", known.partition("/")[0] + "/*") and weights.get(known, 1.0) > 0:
                return known
    raise NotAcceptableError(f"this server answers {', '.join(_KINDS)}, none of which is accepted: {header}")


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            with suppress(ValueError):
                return float(value)
    return 1.0


def _reply(scored: Scored, kind: str) -> Reply:
    if kind == "text/csv":
        body = "".join(f"{score!r}\n" for score in scored.scores).encode()
    elif kind == _LINES:
        body = b"".join(msgspec.json.encode({"score": score}) + b"\n" for score in scored.scores)
    else:
        body = msgspec.json.encode({"predictions": scored.scores})
    return 200, [("content-type", kind), *scored.headers()], body
