"""Seldon's protocol v1: predictions in every kind of payload, and feedback that becomes labels."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LATE, LOOKUP, Local, Reply, Stack, run, sigmoid

from tidemill.core.errors import InvalidError

PREDICT, FEEDBACK = "/api/v1.0/predictions", "/api/v1.0/feedback"
ROW = list(FULL.values())
SCORE = pytest.approx(sigmoid(1))


class Labels:
    """Keeps what feedback states."""

    def __init__(self) -> None:
        self.stated: list[tuple[str, dict[str, float], str]] = []

    def __call__(self, service: str, values: Mapping[str, float], who: str) -> int:
        if 9.0 in values.values():
            raise InvalidError("'seldon' is no writer of label 'late'; its definition names bank")
        self.stated.append((service, dict(values), who))
        return len(values)


def ask(stack: Stack, *sent: tuple[str, Any], **more: Any) -> list[Reply]:
    async def script(local: Local) -> list[Reply]:
        return [await local.ask("POST", path, s if isinstance(s, bytes) else json.dumps(s).encode()) for path, s in sent]

    got: list[Reply] = run(stack, script, **more)
    return got


NUMBERS = {"sky__wind": 3.0, "hour": 17.0}
PAYLOADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ndarray": ({"data": {"names": list(FULL), "ndarray": [ROW, ROW]}}, {"data": {"names": ["score"], "ndarray": [[SCORE], [SCORE]]}}),
    "ndarray without names": ({"data": {"ndarray": [ROW]}}, {"data": {"names": ["score"], "ndarray": [[SCORE]]}}),
    "one row without brackets": ({"data": {"names": [], "ndarray": ROW}}, {"data": {"names": ["score"], "ndarray": [[SCORE]]}}),
    "keys": ({"data": {"names": list(LOOKUP), "ndarray": [list(LOOKUP.values())]}}, {"data": {"names": ["score"], "ndarray": [[SCORE]]}}),
    "tensor": (
        {"data": {"tensor": {"shape": [2, 5], "values": [3.0, None, None, 17.0, 6.0] * 2}}},
        {"data": {"names": ["score"], "tensor": {"shape": [2, 1], "values": [SCORE, SCORE]}}},
    ),
    "json rows": ({"jsonData": [FULL]}, {"jsonData": {"score": [SCORE]}}),
    "json columns": ({"jsonData": {n: [v, v] for n, v in FULL.items()}}, {"jsonData": {"score": [SCORE, SCORE]}}),
    "json row": ({"jsonData": LOOKUP}, {"jsonData": {"score": [SCORE]}}),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_predictions(stack: Stack, name: str) -> None:
    sent, answer = PAYLOADS[name]
    [got] = ask(stack, (PREDICT, {"meta": {"puid": "p-1", "tags": {}}, **sent}))
    assert got.status == 200, got.answer
    meta = {"puid": "p-1", "tags": {"model_version": "1", "logged": True}, "requestPath": {"late": "1"}}
    assert got.json() == {"meta": meta, **answer}
    assert sorted(p.id for p in stack.log.read("late")) in (["p-1"], ["p-1/0", "p-1/1"])


def test_a_puid_is_made_and_services_are_under_their_names(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Stack(tmp_path / "other", replace(LATE, name="early"))
    sent = {"data": {"ndarray": [ROW]}}

    async def script(local: Local) -> list[Reply]:
        paths = ("/seldon/ns/late" + PREDICT, PREDICT, "/seldon/ns/lat" + PREDICT)
        return [await local.ask("POST", path, json.dumps(sent).encode()) for path in paths]

    named, root, unknown = run(stack, script, other)
    assert len(stack.log.find(named.json()["meta"]["puid"])) == 1
    assert root.status == 404
    assert unknown.json()["status"] == {
        "code": 404,
        "info": "no model named 'lat'; did you mean 'late'?",
        "reason": "MICROSERVICE_BAD_DATA",
        "status": "FAILURE",
    }


def test_a_text_for_a_service_of_one_text(tmp_path: Path) -> None:
    stack = Stack(tmp_path, replace(LATE, features=["carrier"]))
    stack.add(1)
    stack.deploy(live=1)
    [got] = ask(stack, (PREDICT, {"strData": "UA"}))
    assert got.json()["jsonData"] == {"score": [SCORE]}


BAD: dict[str, tuple[Any, str]] = {
    "no json": (b"{", "not JSON"),
    "nothing": ({}, "exactly one of data, jsonData"),
    "two": ({"data": {}, "jsonData": {}}, "exactly one of"),
    "meta": ({"meta": 7, "data": {"ndarray": [ROW]}}, "meta must be an object"),
    "puid": ({"meta": {"puid": 7}, "data": {"ndarray": [ROW]}}, "meta.puid is a text"),
    "a long puid": ({"meta": {"puid": "x" * 201}, "data": {"ndarray": [ROW]}}, "meta.puid has 201 characters"),
    "data": ({"data": [ROW]}, "data must be an object"),
    "no data": ({"data": {"names": ["hour"]}}, "ndarray or tensor"),
    "tftensor": ({"data": {"tftensor": {}}}, "it has tftensor"),
    "names": ({"data": {"names": [7], "ndarray": [[1]]}}, "must be texts"),
    "names no list": ({"data": {"names": "hour", "ndarray": [[1]]}}, "data.names must be a list"),
    "width": ({"data": {"names": ["hour"], "ndarray": [[1, 2]]}}, "data.ndarray[0] has 2 values"),
    "empty": ({"data": {"ndarray": []}}, "at least one row"),
    "tensor shape": ({"data": {"tensor": {"shape": [2, 5], "values": [1.0]}}}, "shape is [2, 5]"),
    "tensor of three": ({"data": {"tensor": {"shape": [1, 1, 1], "values": [1.0]}}}, "the shape is [rows, columns]"),
    "tensor of texts": ({"data": {"tensor": {"shape": ["1"], "values": [1.0]}}}, "the shape is [rows, columns]"),
    "tensor without": ({"data": {"tensor": {}}}, "values must be a list"),
    "text": ({"strData": "UA"}, "strData is one text"),
    "binary": ({"binData": "AA=="}, "binData is not read"),
    "json number": ({"jsonData": 7}, "must be a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_messages(stack: Stack, name: str) -> None:
    sent, reason = BAD[name]
    [got] = ask(stack, (PREDICT, sent))
    told = got.json()["status"]
    assert (got.status, told["code"], told["status"], told["reason"]) == (400, 400, "FAILURE", "MICROSERVICE_BAD_DATA")
    assert reason in told["info"]


def about(puid: str, **more: Any) -> dict[str, Any]:
    return {"response": {"meta": {"puid": puid}}, **more}


def test_truth_becomes_a_label(stack: Stack) -> None:
    labels = Labels()
    one, many = {"meta": {"puid": "a"}, "data": {"ndarray": [ROW]}}, {"meta": {"puid": "b"}, "data": {"ndarray": [ROW, ROW]}}
    got = ask(
        stack,
        (PREDICT, one),
        (PREDICT, many),
        (FEEDBACK, about("a", truth={"data": {"ndarray": [[1]]}})),
        (FEEDBACK, {"request": one, "truth": {"jsonData": 0}, "reward": 0}),
        ("/seldon/ns/late" + FEEDBACK, about("b", truth={"data": {"tensor": {"shape": [2], "values": [1, 0]}}})),
        feedback=labels,
    )
    assert [r.status for r in got] == [200] * 5
    assert got[2].json() == {"meta": {"puid": "a", "tags": {"label": "late", "stated": 1, "new": 1}}}
    who = "seldon:"
    assert labels.stated == [("late", {"a": 1.0}, who), ("late", {"a": 0.0}, who), ("late", {"b/0": 1.0, "b/1": 0.0}, who)]


FEEDBACKS: dict[str, tuple[Any, int, str]] = {
    "no puid": ({"truth": {"jsonData": 1}}, 400, "response.meta.puid is missing"),
    "reward alone": (about("a", reward=1.0), 400, "would not be kept"),
    "reward and truth": (about("a", reward=1.0, truth={"jsonData": 1}), 400, "only truth can be kept"),
    "reward no number": (about("a", reward="x", truth={"jsonData": 1}), 400, "reward is a number"),
    "nothing": (about("a"), 400, "truth is missing"),
    "truth no object": (about("a", truth=1), 400, "truth must be an object"),
    "truth of texts": (about("a", truth={"jsonData": "late"}), 400, "not one number"),
    "wide truth": (about("a", truth={"data": {"ndarray": [[1, 2]]}}), 400, "not one number"),
    "empty truth": (about("a", truth={"data": {"ndarray": []}}), 400, "is empty"),
    "text truth": (about("a", truth={"strData": "1"}), 400, "truth.strData is no number"),
    "unknown prediction": (about("nobody", truth={"jsonData": 1}), 404, "'nobody'"),
    "too many rows": (about("a", truth={"jsonData": [1, 0]}), 404, "'a/0'"),
    "a writer that may not": (about("a", truth={"jsonData": 9}), 400, "no writer"),
    "response no object": ({"response": 7}, 400, "response must be an object"),
}


@pytest.mark.parametrize("name", FEEDBACKS)
def test_feedback_that_cannot_be_kept_is_refused(stack: Stack, name: str) -> None:
    sent, status, reason = FEEDBACKS[name]
    labels = Labels()
    got = ask(stack, (PREDICT, {"meta": {"puid": "a"}, "data": {"ndarray": [ROW]}}), (FEEDBACK, sent), feedback=labels)[1]
    assert (got.status, got.json()["status"]["status"]) == (status, "FAILURE")
    assert reason in got.json()["status"]["info"]
    assert labels.stated == []


def test_feedback_where_no_labels_are_kept(stack: Stack) -> None:
    got = ask(stack, (PREDICT, {"meta": {"puid": "a"}, "data": {"ndarray": [ROW]}}), (FEEDBACK, about("a", truth={"jsonData": 1})))[1]
    assert got.status == 503


def test_feedback_needs_a_token_that_may_ingest(stack: Stack) -> None:
    scientist, engineer = stack.tokens.make("s", "data-scientist"), stack.tokens.make("e", "data-engineer")
    labels = Labels()

    async def script(local: Local) -> list[int]:
        sent = json.dumps({"meta": {"puid": "a"}, "data": {"ndarray": [ROW]}}).encode()
        truth = json.dumps(about("a", truth={"jsonData": 1})).encode()
        asked = [(PREDICT, sent, scientist), (FEEDBACK, truth, scientist), (FEEDBACK, truth, engineer), (FEEDBACK, truth, "no")]
        return [(await local.ask("POST", path, b, 1, authorization=f"Bearer {token}")).status for path, b, token in asked]

    assert run(stack, script, token=True, feedback=labels) == [200, 403, 200, 401]
    assert labels.stated == [("late", {"a": 1.0}, "seldon:e")]
