"""Malformed requests: each gets a 4xx with the reason, none a stack trace."""

import asyncio
import json
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LOOKUP, Local, Reply, Stack, body, sigmoid, tensors


def ask(stack: Stack, sent: bytes, path: str = "/v2/models/late/infer", *, pieces: int = 1, **settings: Any) -> Reply:
    async def go() -> Reply:
        async with Local(stack, **settings) as local:
            return await local.ask("POST", path, sent, pieces)

    return asyncio.run(go())


def test_full_inputs(stack: Stack) -> None:
    got = ask(stack, body(FULL, id="flight-7")).json()
    assert got == {
        "model_name": "late",
        "model_version": "1",
        "id": "flight-7",
        "parameters": {"role": "live", "logged": True},
        "outputs": [
            {"name": "score", "datatype": "FP64", "shape": [1], "data": [pytest.approx(sigmoid(1))]},
            {"name": "id", "datatype": "BYTES", "shape": [1], "data": ["flight-7"]},
        ],
    }
    assert [p.score for p in stack.log.find("flight-7")] == [got["outputs"][0]["data"][0]]


def test_keys_only_are_looked_up_at_the_server_s_time(stack: Stack) -> None:
    got = ask(stack, body(LOOKUP, 3, id="r")).json()
    assert got["outputs"][1]["data"] == ["r/0", "r/1", "r/2"]
    [kept] = stack.log.find("r/1")
    assert dict(zip(kept.columns, kept.values, strict=True)) == FULL
    assert kept.request == LOOKUP
    assert kept.at_us == stack.clock.now_us()
    assert stack.processor.asked == [(3, kept.at_us)]


def test_ids_may_come_as_the_service_s_key_column(stack: Stack) -> None:
    sent = {"inputs": [*tensors(FULL, 2), {"name": "flight", "datatype": "BYTES", "shape": [2], "data": ["UA1", "UA2"]}]}
    got = ask(stack, json.dumps(sent).encode()).json()
    assert got["outputs"][1]["data"] == ["UA1", "UA2"]
    assert [p.id for p in stack.log.read("late")] == ["UA1", "UA2"]


def test_without_an_id_one_is_made(stack: Stack) -> None:
    got = ask(stack, body(FULL)).json()
    assert len(stack.log.find(got["id"])) == 1


def test_nulls_are_missing_values(stack: Stack) -> None:
    sent = tensors(FULL)
    sent[0]["data"] = [None]
    got = ask(stack, json.dumps({"inputs": sent, "id": "n"}).encode())
    assert got.status == 200
    assert stack.log.find("n")[0].values[0] is None


def test_outputs_can_be_chosen(stack: Stack) -> None:
    got = ask(stack, body(FULL, outputs=[{"name": "role"}, {"name": "model_version"}])).json()
    assert [(o["name"], o["data"]) for o in got["outputs"]] == [("model_version", [1]), ("role", ["live"])]


NUMBERS = [1.0, 2.0, 3.0, 4.0, 5.0]


def matrix(shape: list[int], data: list[Any], kind: str = "FP64") -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": kind, "shape": shape, "data": data}]}).encode()


@pytest.mark.parametrize(
    "sent",
    [
        matrix([2, 5], NUMBERS * 2),
        matrix([2, 5], [NUMBERS] * 2),
        matrix([2, 5], [1, 2, 3, 4, 5] * 2, "INT64"),
        matrix([2, 5], [NUMBERS] * 2, "FP32"),
    ],
)
def test_one_matrix(stack: Stack, sent: bytes) -> None:
    assert ask(stack, sent).json()["outputs"][0]["shape"] == [2]
    assert [p.values for p in stack.log.read("late")] == [tuple(NUMBERS)] * 2


DEEP = b"[" * 100_000 + b"]" * 100_000
MALFORMED: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "the body is empty"),
    "not json": (b"hello", 400, "not JSON"),
    "truncated": (body(FULL)[:-5], 400, "not JSON"),
    "trailing": (body(FULL) + b"x", 400, "not JSON"),
    "a list": (b"[]", 400, "Expected `object`"),
    "no inputs": (b"{}", 400, "inputs"),
    "empty inputs": (b'{"inputs":[]}', 400, "inputs is empty"),
    "nan": (matrix([1, 5], NUMBERS).replace(b"1.0", b"NaN"), 400, "NaN"),
    "infinity": (matrix([1, 5], NUMBERS).replace(b"1.0", b"Infinity"), 400, "not JSON"),
    "a number too large": (matrix([1, 5], NUMBERS).replace(b"1.0", b"1e999"), 400, "out of range"),
    "an integer too large": (matrix([1, 5], [2**63] * 5, "INT64"), 400, "inputs[0].data[0]"),
    "deep": (b'{"inputs":' + DEEP + b"}", 400, ""),
    "deep parameters": (b'{"parameters":{"a":' + DEEP + b'},"inputs":[]}', 400, "too deep"),
    "not utf-8": (body(FULL, id="ID").replace(b"ID", b"\xff\xfe"), 400, "UTF-8"),
    "utf-16": (body(FULL).decode().encode("utf-16"), 400, "not JSON"),
    "bad datatype": (matrix([1, 5], NUMBERS, "FP99"), 400, "known datatypes: FP64"),
    "no datatype": (b'{"inputs":[{"name":"x","shape":[1,5],"data":[1,2,3,4,5]}]}', 400, "datatype"),
    "text as number": (matrix([1, 5], ["a"] * 5), 400, "inputs[0].data[0]"),
    "number as text": (matrix([1, 5], NUMBERS, "BYTES"), 400, "inputs[0].data[0]"),
    "bool as number": (matrix([1, 5], [True] * 5), 400, "inputs[0].data[0]"),
    "text matrix": (matrix([1, 5], ["a"] * 5, "BYTES"), 400, "takes numbers"),
    "shape mismatch": (matrix([2, 5], NUMBERS), 400, "10 values, and has 5"),
    "nested mismatch": (matrix([2, 5], [NUMBERS]), 400, "another"),
    "ragged": (matrix([2, 5], [NUMBERS, NUMBERS[:4]]), 400, "another"),
    "mixed nesting": (matrix([2, 5], [NUMBERS, 1.0]), 400, "inputs[0].data[0]"),
    "width": (matrix([1, 4], NUMBERS[:4]), 400, "sky__wind"),
    "no rows": (matrix([0, 5], []), 400, "at least 1"),
    "negative rows": (matrix([-1, 5], []), 400, "at least 1"),
    "no shape": (matrix([], NUMBERS), 400, "at least 1"),
    "too many rows": (matrix([10_001, 5], []), 400, "10000 at most"),
    "unknown column": (body(FULL | {"sky__wing": 1.0}), 400, "did you mean 'sky__wind'"),
    "twice": (json.dumps({"inputs": tensors(FULL) + tensors({"hour": 1.0})}).encode(), 400, "'hour' comes twice"),
    "uneven": (json.dumps({"inputs": tensors(FULL, 2)[:1] + tensors(FULL, 1)[1:]}).encode(), 400, "'sky__cover' has shape [1]"),
    "missing column": (body({"origin": "JFK"}), 400, "'carrier', 'scheduled_at', 'factor'"),
    "a text for a number": (body(FULL | {"hour": "late"}), 400, "'hour' takes numbers"),
    "a number as text": (body(FULL | {"hour": "17"}), 400, "'hour' takes numbers, not texts (row 0)"),
    "an infinite number as text": (body(FULL | {"hour": "inf"}), 400, "'hour' takes numbers, not texts"),
    "no time": (body(LOOKUP | {"scheduled_at": "tomorrow"}), 400, "column 'scheduled_at': 'tomorrow' is not an ISO 8601 time"),
    "nothing": (b" ", 400, "the body is empty"),
    "unknown output": (body(FULL, outputs=[{"name": "scores"}]), 400, "did you mean 'score'"),
    "long id": (body(FULL, id="x" * 201), 400, "200 at most"),
    "id of another kind": (body(FULL, id=7), 400, "Expected `str`"),
    "null key": (
        json.dumps({"inputs": [*tensors(FULL), {"name": "flight", "datatype": "BYTES", "shape": [1], "data": [None]}]}).encode(),
        400,
        "none null",
    ),
    "at": (body(FULL, parameters={"at": "2013-01-01"}), 400, "allow_at"),
    "at of another kind": (body(FULL, parameters={"at": 7}), 400, "ISO 8601"),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    made = Stack(tmp_path_factory.mktemp("serving"))
    made.add(1)
    made.deploy(live=1)
    return made


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(untouched: Stack, name: str) -> None:
    sent, status, reason = MALFORMED[name]
    got = ask(untouched, sent)
    assert got.status == status, got.answer
    assert set(got.json()) == {"error"}
    assert reason in got.json()["error"]
    assert "Traceback" not in got.json()["error"]
    assert list(untouched.log.read("late")) == []


def test_a_body_over_the_limit_is_refused_without_being_kept(stack: Stack) -> None:
    huge = b"x" * (9 << 20)
    for pieces in (1, 100):
        got = ask(stack, huge, pieces=pieces)
        assert got.status == 413
        assert "8388608 bytes" in got.json()["error"]
    assert ask(stack, body(FULL), max_body_bytes=20).status == 413


def test_a_body_in_pieces_is_one_body(stack: Stack) -> None:
    assert ask(stack, body(FULL), pieces=7).status == 200


def test_one_bad_request_does_not_fail_those_it_meets(stack: Stack) -> None:
    async def go() -> list[Reply]:
        async with Local(stack) as local:
            sent = [body(LOOKUP, id="a"), body(LOOKUP | {"scheduled_at": "tomorrow"}), body(FULL, id="c"), body(FULL | {"hour": "x"})]
            return list(await asyncio.gather(*(local.infer(one) for one in sent)))

    assert [reply.status for reply in asyncio.run(go())] == [200, 400, 200, 400]


def test_requests_that_meet_are_scored_together(stack: Stack) -> None:
    async def go() -> Any:
        async with Local(stack) as local:
            replies = await asyncio.gather(*(local.infer(body(LOOKUP, id=f"r{i}")) for i in range(20)))
            assert [reply.json()["id"] for reply in replies] == [f"r{i}" for i in range(20)]
            return local.app.endpoints["late"].metrics.batch

    batch = asyncio.run(go())
    assert (sum(batch.counts), batch.total) == (2, 20), "the first was alone when it came, the others met"
    assert len(stack.processor.asked) == 2


def test_a_large_group_is_scored_beside_the_loop(stack: Stack) -> None:
    got = ask(stack, matrix([600, 5], NUMBERS * 600)).json()
    assert got["outputs"][0]["data"] == [pytest.approx(sigmoid(1))] * 600
    assert len(list(stack.log.read("late"))) == 600


def test_an_answer_for_another_time_where_it_is_allowed(stack: Stack) -> None:
    assert ask(stack, body(LOOKUP, id="t", parameters={"at": "2013-02-01"}), allow_at=True).status == 200
    assert stack.log.find("t")[0].at_us == 1_359_676_800_000_000
