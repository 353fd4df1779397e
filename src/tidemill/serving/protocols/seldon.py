"""Seldon Core's protocol v1: predictions and feedback.

Source: Seldon Core 1.x, "Seldon Protocol" (SeldonMessage, Feedback). `meta.puid` is the prediction's id. The truth that feedback tells
becomes a statement of the service's label; what else feedback may tell has no place to be kept and is refused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.errors import InvalidError, NotFoundError, UnavailableError
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.http import Reply
from tidemill.serving.pages import reply
from tidemill.serving.plan import Plan
from tidemill.serving.protocol import Call
from tidemill.serving.protocols import reading
from tidemill.serving.protocols.base import Asked, Host, Route, Scored

_PAYLOADS = ("data", "jsonData", "strData", "binData")
_DATA = ("ndarray", "tensor", "tftensor")
_MESSAGE = {
    "type": "object",
    "properties": {
        "meta": {"type": "object", "properties": {"puid": {"type": "string"}}},
        "data": {
            "type": "object",
            "properties": {
                "names": {"type": "array", "items": {"type": "string"}},
                "ndarray": {"type": "array"},
                "tensor": {
                    "type": "object",
                    "properties": {
                        "shape": {"type": "array", "items": {"type": "integer"}},
                        "values": {"type": "array", "items": {"type": "number"}},
                    },
                },
            },
        },
        "jsonData": {},
        "strData": {"type": "string"},
    },
}
_PREDICT = {"application/json": _MESSAGE}
_FEEDBACK = {
    "application/json": {
        "type": "object",
        "required": ["response", "truth"],
        "properties": {"request": _MESSAGE, "response": _MESSAGE, "truth": _MESSAGE, "reward": {"type": "number"}},
    }
}


class Seldon:
    """[Seldon Core's protocol v1](https://docs.seldon.io/projects/seldon-core/en/latest/reference/apis/external-prediction.html): at the root for one service, and for each under `/seldon/NAMESPACE/SERVICE`, as Seldon's ingress has it. `meta.puid` is the prediction's id; the truth of feedback becomes its label."""

    name = "Seldon"
    paths = "`/api/v1.0`, `/seldon/NAMESPACE/SERVICE/api/v1.0`"

    def routes(self, host: Host) -> Sequence[Route]:
        """Predictions and feedback."""
        only = None if host.only is None else next(iter(host.endpoints))
        out = []
        for prefix, service in ([("", only)] if only else []) + [("/seldon/{namespace}/{service}", None)]:
            base = f"{prefix}/api/v1.0"
            out += [
                Route("POST", f"{base}/predictions", _predictions, "Scores a SeldonMessage.", "predict", service, _PREDICT),
                Route("POST", f"{base}/feedback", _feedback, "States the label of a prediction.", "ingest", service, _FEEDBACK),
            ]
        return out

    def failure(self, status: int, reason: str) -> Reply:
        """`{"status": {"code": …, "info": …, "reason": …, "status": "FAILURE"}}`."""
        kind = "MICROSERVICE_BAD_DATA" if status < 500 else "MICROSERVICE_INTERNAL_ERROR"
        return reply({"status": {"code": status, "info": reason, "reason": kind, "status": "FAILURE"}}, status)


async def _predictions(asked: Asked) -> Reply:
    limits = asked.host.settings
    sent = reading.json_object(reading.unpacked(asked.body, asked.header("content-encoding").lower(), limits.max_body_bytes), nan=True)
    puid = _puid(sent, "meta.puid")
    name = asked.new_id() if not puid else asked.named(puid, "meta.puid")
    kind = _payload(sent, "the message")
    plan = asked.endpoint.scorer.plan
    if kind == "data":
        call, kind = _data(plan, sent["data"], name, limits.max_rows)
    elif kind == "jsonData":
        call = _json_data(plan, sent["jsonData"], name, limits.max_rows)
    elif kind == "strData":
        if len(plan.columns) != 1:
            raise InvalidError(f"strData is one text; {plan.service.name} takes {', '.join(plan.columns)}: send data with names")
        call = reading.of_rows(plan, [sent["strData"]], name, limits.max_rows, "strData")
    else:
        raise InvalidError("binData is not read by this server; send data or jsonData")
    return _answered(asked, await asked.score(call), kind)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidError(f"{where} must be an object")
    return value


def _puid(message: Mapping[str, Any], where: str) -> str:
    puid = _object(message.get("meta") or {}, where.removesuffix(".puid")).get("puid", "")
    if not isinstance(puid, str):
        raise InvalidError(f"{where} is a text")
    return puid


def _payload(message: Mapping[str, Any], where: str) -> str:
    """Which kind of payload a message has."""
    kinds = [kind for kind in _PAYLOADS if kind in message]
    if len(kinds) != 1:
        raise InvalidError(f"{where} must have exactly one of {', '.join(_PAYLOADS)}; it has {', '.join(kinds) or 'none'}")
    return kinds[0]


def _rows(data: Any, where: str) -> tuple[str, list[Any], list[str] | None]:
    """Kind, rows and names of `data`."""
    data = _object(data, where)
    kinds = [kind for kind in _DATA if kind in data]
    if len(kinds) != 1 or kinds[0] == "tftensor":
        raise InvalidError(f"{where} must have ndarray or tensor; it has {', '.join(kinds) or 'neither'}")
    names = reading.listed(data["names"], f"{where}.names") if data.get("names") else None
    if names is not None and not all(isinstance(name, str) for name in names):
        raise InvalidError(f"{where}.names must be texts, the names of the columns")
    if kinds[0] == "ndarray":
        return "ndarray", reading.listed(data["ndarray"], f"{where}.ndarray"), names
    return "tensor", _tensor(_object(data["tensor"], f"{where}.tensor"), f"{where}.tensor"), names


def _tensor(tensor: Mapping[str, Any], where: str) -> list[Any]:
    values = reading.listed(tensor.get("values"), f"{where}.values")
    shape = reading.listed(tensor.get("shape"), f"{where}.shape")
    if len(shape) not in (1, 2) or not all(type(size) is int and size > 0 for size in shape) or math.prod(shape) != len(values):
        raise InvalidError(f"{where}.shape is {shape} and {where}.values has {len(values)} values; the shape is [rows, columns]")
    width = shape[1] if len(shape) == 2 else 1
    return [values[i : i + width] for i in range(0, len(values), width)]


def _data(plan: Plan, data: Any, name: str, max_rows: int) -> tuple[Call, str]:
    kind, rows, names = _rows(data, "data")
    if rows and not any(isinstance(row, list) for row in rows) and (kind == "ndarray" and len(names or plan.columns) > 1):
        rows = [rows]  # a single row without the brackets of a matrix
    return reading.of_rows(plan, rows, name, max_rows, f"data.{kind}", names), kind


def _json_data(plan: Plan, data: Any, name: str, max_rows: int) -> Call:
    """Rows as a list, columns as an object of lists, or one row as an object of values."""
    if isinstance(data, dict):
        columns = data if any(isinstance(value, list) for value in data.values()) else {c: [v] for c, v in data.items()}
        return reading.of_columns(plan, columns, name, max_rows, "jsonData")
    return reading.of_instances(plan, data, name, max_rows, "jsonData")


def _answered(asked: Asked, scored: Scored, kind: str) -> Reply:
    scores, service = scored.scores, asked.endpoint.scorer.service.name
    versions = {answer.version for answer in scored.answers}
    version = str(versions.pop()) if len(versions) == 1 else "mixed"
    tags: dict[str, Any] = {"model_version": version, "logged": scored.logged}
    meta = {"puid": scored.call.id, "tags": tags, "requestPath": {service: version}}
    if kind == "ndarray":
        payload: dict[str, Any] = {"data": {"names": ["score"], "ndarray": [[score] for score in scores]}}
    elif kind == "tensor":
        payload = {"data": {"names": ["score"], "tensor": {"shape": [len(scores), 1], "values": scores}}}
    else:
        payload = {"jsonData": {"score": scores}}
    status, headers, body = reply({"meta": meta, **payload})
    return status, [*headers, *scored.headers()], body


# feedback


async def _feedback(asked: Asked) -> Reply:
    sent = reading.json_object(asked.body)
    puid = _puid(_object(sent.get("response") or {}, "response"), "response.meta.puid")
    puid = puid or _puid(_object(sent.get("request") or {}, "request"), "request.meta.puid")
    if not puid:
        raise InvalidError("response.meta.puid is missing; it is the id of the prediction that the feedback is about")
    truth, label = sent.get("truth"), asked.endpoint.scorer.service.label.name
    reward = sent.get("reward", 0)
    if not isinstance(reward, int | float) or isinstance(reward, bool):
        raise InvalidError("reward is a number")
    if truth is None:
        raise InvalidError(f"truth is missing; a reward alone is no value of the label {label!r} and would not be kept, so it is refused")
    if reward:
        raise InvalidError(f"reward is {reward}, and only truth can be kept, as the label {label!r}; leave the reward out")
    values = _truth(_object(truth, "truth"))
    stated = await asyncio.get_running_loop().run_in_executor(None, _state, asked, puid, values)
    return reply({"meta": {"puid": puid, "tags": {"label": label, "stated": len(values), "new": stated}}})


def _truth(truth: dict[str, Any]) -> list[float]:
    """One label value a row."""
    kind = _payload(truth, "truth")
    if kind == "data":
        _kind, rows, _names = _rows(truth["data"], "truth.data")
    elif kind == "jsonData":
        rows = truth["jsonData"] if isinstance(truth["jsonData"], list) else [truth["jsonData"]]
    else:
        raise InvalidError(f"truth.{kind} is no number; send truth.data or truth.jsonData")
    values = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    for i, value in enumerate(values):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidError(f"row {i} of truth.{kind} is not one number; the label is one number a prediction, 0 or 1 for no and yes")
    if not values:
        raise InvalidError(f"truth.{kind} is empty; send one number a prediction")
    return [float(value) for value in values]


def _state(asked: Asked, puid: str, values: Sequence[float]) -> int:
    if asked.host.feedback is None:
        raise UnavailableError("this server keeps no labels; state them at POST /api/v1/labels of the console's address")
    ids = _ids(asked.endpoint, puid, len(values))
    return asked.host.feedback(asked.endpoint.scorer.service.name, dict(zip(ids, values, strict=True)), f"seldon:{asked.who}")


def _ids(endpoint: Endpoint, puid: str, rows: int) -> list[str]:
    """The ids of the predictions that a puid stands for. Raises `NotFoundError` when the log has them not."""
    ids = [puid] if rows == 1 else [f"{puid}/{i}" for i in range(rows)]
    service = endpoint.scorer.service.name
    for name in ids:
        if not any(found.service == service for found in endpoint.scorer.log.find(name)):
            raise NotFoundError(
                f"no prediction of {service} has the id {name!r}; meta.puid of the answer has it, and the truth one row a prediction"
            )
    return ids
