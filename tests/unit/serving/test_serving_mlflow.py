"""MLflow's scoring protocol, and SageMaker's container contract on the same paths."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LATE, LOOKUP, Reply, Stack, run, sigmoid

NAMES = list(FULL)
ROW = list(FULL.values())
JSON_TYPE = {"content-type": "application/json"}
SCORE = pytest.approx(sigmoid(1))


def ask(stack: Stack, sent: Any, path: str = "/invocations", *, kind: str = "application/json", **headers: str) -> Reply:
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    got: Reply = run(stack, lambda local: local.ask("POST", path, body, 1, **{"content-type": kind, **headers}))
    return got


SHAPES: dict[str, Any] = {
    "split": {"dataframe_split": {"columns": NAMES, "data": [ROW, ROW]}},
    "split with index": {"dataframe_split": {"columns": NAMES, "index": [0, 1], "data": [ROW, ROW]}},
    "records": {"dataframe_records": [FULL, FULL]},
    "instances by name": {"instances": [FULL, FULL]},
    "instances by place": {"instances": [ROW, ROW]},
    "inputs by column": {"inputs": {name: [value] * 2 for name, value in FULL.items()}},
    "inputs by place": {"inputs": [ROW, ROW]},
    "columns of one value a row": {"inputs": {name: [[value]] * 2 for name, value in FULL.items()}},
    "features": {"instances": [{"features": ROW}, {"features": ROW}]},
    "with params": {"instances": [ROW, ROW], "params": {}},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(stack: Stack, shape: str) -> None:
    got = ask(stack, SHAPES[shape])
    assert got.json() == {"predictions": [SCORE, SCORE]}
    headers = dict(got.headers)
    assert (headers["tidemill-model-version"], headers["tidemill-logged"]) == ("1", "true")
    kept = stack.log.find(headers["tidemill-prediction-id"] + "/1")
    assert [p.values for p in kept] == [(3.0, "cloudy", "UA", 17.0, 6.0)]


def test_keys_alone_are_looked_up_and_one_value_a_column_is_one_row(stack: Stack) -> None:
    for sent in ({"dataframe_records": [LOOKUP]}, {"inputs": LOOKUP}):
        got = ask(stack, sent, **{"tidemill-prediction-id": "mine"})
        assert got.json() == {"predictions": [SCORE]}
    assert stack.log.find("mine")[0].values == (3.0, "cloudy", "UA", 17.0, 6.0)


def test_missing_values_are_null(stack: Stack) -> None:
    some = {k: v for k, v in FULL.items() if k != "gust"}
    sent = json.dumps({"dataframe_records": [FULL, some, FULL | {"gust": float("nan")}]}).encode()
    got = ask(stack, sent, **{"tidemill-prediction-id": "n"})
    assert got.status == 200, got.answer
    assert [stack.log.find(f"n/{i}")[0].values[4] for i in range(3)] == [6.0, None, None]


def test_time_is_a_parameter_where_it_is_allowed(stack: Stack) -> None:
    sent = json.dumps({"inputs": LOOKUP, "params": {"at": "2013-02-01"}}).encode()
    got = run(
        stack, lambda local: local.ask("POST", "/invocations", sent, 1, **JSON_TYPE, **{"tidemill-prediction-id": "t"}), allow_at=True
    )
    assert got.status == 200
    assert stack.log.find("t")[0].at_us == 1_359_676_800_000_000


CSV = "sky__wind,sky__cover,carrier,hour,gust\n3.0,cloudy,UA,17,6.0\n,clear,AA,18,nan\n"


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (CSV, "text/csv"),
        (CSV, "text/csv; charset=utf-8"),
        (CSV, "text/csv; header=present"),
        (CSV.partition("\n")[2], "text/csv"),
        (CSV.partition("\n")[2], "text/csv; label_size=0; header=absent"),
        (CSV.replace("\n", "\r\n"), "text/csv"),
        ("\ufeff" + CSV, "text/csv"),
        ('[3.0,"cloudy","UA",17,6.0]\n[null,"clear","AA",18,null]\n', "application/jsonlines"),
        ('{"features":[3.0,"cloudy","UA",17,6.0]}\n{"features":[null,"clear","AA",18,null]}', "application/jsonlines"),
    ],
)
def test_lines(stack: Stack, sent: str, kind: str) -> None:
    got = ask(stack, sent.encode(), kind=kind, **{"tidemill-prediction-id": "c"})
    assert got.json() == {"predictions": [SCORE, SCORE]}
    assert stack.log.find("c/0")[0].values == (3.0, "cloudy", "UA", 17.0, 6.0)
    assert stack.log.find("c/1")[0].values == (None, "clear", "AA", 18.0, None)


@pytest.mark.parametrize(
    ("accept", "kind", "answer"),
    [
        ("", "application/json", None),
        ("*/*", "application/json", None),
        ("text/csv", "text/csv", f"{sigmoid(1)!r}\n"),
        ("image/png, text/csv;q=0.5", "text/csv", f"{sigmoid(1)!r}\n"),
        ("application/jsonlines", "application/jsonlines", f'{{"score":{sigmoid(1)!r}}}\n'),
        ("text/csv;q=0, application/json;q=0.1", "application/json", None),
        ("application/json; q=0.2, text/*; q=0.9", "text/csv", f"{sigmoid(1)!r}\n"),
        ("application/json;q=0, */*", "text/csv", f"{sigmoid(1)!r}\n"),
        ("application/*;q=often", "application/json", None),
    ],
)
def test_the_answer_comes_as_it_is_accepted(stack: Stack, accept: str, kind: str, answer: str | None) -> None:
    got = ask(stack, {"instances": [ROW]}, accept=accept)
    assert dict(got.headers)["content-type"] == kind
    assert answer is None or float(got.answer.split(b":")[-1].rstrip(b"}\n")) == pytest.approx(sigmoid(1))


def test_ping_and_version(stack: Stack) -> None:
    async def script(local: Any) -> list[Reply]:
        return [await local.ask("GET", path) for path in ("/ping", "/health", "/late/ping", "/version", "/late/version", "/none/ping")]

    got = run(stack, script)
    assert [(r.status, r.answer) for r in got[:5]] == [(200, b"\n")] * 3 + [(200, b"3.0.0")] * 2
    assert got[5].status == 404
    stack.deploy()
    assert [r.status for r in run(stack, script)[:3]] == [404, 404, 404]


def test_several_services_have_a_prefix_each(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Stack(tmp_path / "other", replace(LATE, name="early"))
    other.add(1, bias=0.0)
    other.deploy(live=1)
    body = json.dumps({"instances": [ROW]}).encode()

    async def script(local: Any) -> list[Any]:
        paths = ("/late/invocations", "/early/invocations", "/invocations")
        return [(r.status, r.json()) for r in [await local.ask("POST", path, body, 1, **JSON_TYPE) for path in paths]]

    late, early, root = run(stack, script, other)
    assert (late, early) == ((200, {"predictions": [SCORE]}), (200, {"predictions": [0.5]}))
    assert root[0] == 400
    assert "/early/invocations, /late/invocations" in root[1]["message"]


BAD: dict[str, tuple[Any, str, int, str]] = {
    "no json": (b"hello", "application/json", 400, "not JSON"),
    "a list": ([ROW], "application/json", 400, "must be a JSON object, not a list"),
    "no shape": ({}, "application/json", 400, "exactly one of"),
    "two shapes": ({"instances": [ROW], "inputs": [ROW]}, "application/json", 400, "exactly one of"),
    "unknown field": ({"instances": [ROW], "columns": NAMES}, "application/json", 400, "exactly one of"),
    "infinity": (b'{"instances": [[Infinity]]}', "application/json", 400, "not JSON"),
    "infinity beside nan": (b'{"instances": [[Infinity, NaN]]}', "application/json", 400, "the value Infinity"),
    "deep": (b'{"instances": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", "application/json", 400, ""),
    "deep with nan": (b'{"instances": ' + b"[" * 90_000 + b"NaN" + b"]" * 90_000 + b"}", "application/json", 400, ""),
    "no rows": ({"instances": []}, "application/json", 400, "instances is empty; send at least one row"),
    "no records": ({"dataframe_records": []}, "application/json", 400, "at least one row"),
    "no columns": ({"inputs": {}}, "application/json", 400, "no columns"),
    "width": ({"instances": [ROW, ROW[:2]]}, "application/json", 400, "instances[1] has 2 values"),
    "a record among rows": ({"instances": [ROW, FULL]}, "application/json", 400, "instances[1]"),
    "other columns": ({"instances": [FULL, LOOKUP]}, "application/json", 400, "instances[1] has other columns"),
    "uneven": ({"inputs": {"hour": [1, 2], "gust": [1]}}, "application/json", 400, "hour 2, gust 1"),
    "unknown column": ({"instances": [FULL | {"wind": 1}]}, "application/json", 400, "'wind'"),
    "csv with an unknown column": (CSV.replace("gust", "gusts", 1).encode(), "text/csv", 400, "'gusts'; did you mean 'gust'"),
    "csv with one more column": ((CSV.partition("\n")[0] + ",wind\n1,cloudy,UA,1,2,3").encode(), "text/csv", 400, "'wind'"),
    "csv line too short": ((CSV + "1,2\n").encode(), "text/csv", 400, "has 2 values; the columns are 5"),
    "csv with a text for a number": (
        (CSV.partition("\n")[0] + "\nfar,cloudy,UA,1,2").encode(),
        "text/csv",
        400,
        "'sky__wind' takes numbers, not texts (row 0)",
    ),
    "number as text": ({"instances": [FULL | {"hour": "17"}]}, "application/json", 400, "'hour' takes numbers"),
    "an object as value": ({"instances": [FULL | {"hour": {"a": 1}}]}, "application/json", 400, "instances.hour[0] is an object"),
    "a large number": ({"instances": [FULL | {"hour": 2**70}]}, "application/json", 400, ""),
    "a text for a number": ({"instances": [FULL | {"hour": "late"}]}, "application/json", 400, "'hour' takes numbers"),
    "column twice": ({"dataframe_split": {"columns": ["hour", "hour"], "data": [[1, 2]]}}, "application/json", 400, "'hour' twice"),
    "column no text": ({"dataframe_split": {"columns": [1], "data": [[1]]}}, "application/json", 400, "must be texts"),
    "split without data": ({"dataframe_split": {"columns": NAMES}}, "application/json", 400, "columns, data"),
    "records no list": ({"dataframe_records": FULL}, "application/json", 400, "must be a list"),
    "unknown param": ({"instances": [ROW], "params": {"temperature": 1}}, "application/json", 400, "params.temperature"),
    "params no object": ({"instances": [ROW], "params": 1}, "application/json", 400, "params must be an object"),
    "at not allowed": ({"instances": [ROW], "params": {"at": "2013-01-01"}}, "application/json", 400, "allow_at"),
    "empty csv": (b"", "text/csv", 400, "at least one line"),
    "header alone": (CSV.partition("\n")[0].encode(), "text/csv", 400, "at least one row"),
    "csv width": (b"1,2", "text/csv", 400, "csv[0] has 2 values"),
    "csv not utf-8": (b"\xff", "text/csv", 400, "UTF-8"),
    "csv quote": (b'"a', "text/csv", 400, "not CSV"),
    "csv infinite": (b"inf,cloudy,UA,1,2", "text/csv", 400, "finite"),
    "bad line": (b"[1]\n{", "application/jsonlines", 400, "line[1] is not JSON"),
    "no lines": (b"\n", "application/jsonlines", 400, "at least one row"),
    "content type": (b"", "image/png", 415, "application/json"),
    "charset": (b"", "text/csv; charset=latin1", 415, "UTF-8"),
    "parameter": (b"", "application/json; format=pandas-split", 415, "format"),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    made = Stack(tmp_path_factory.mktemp("serving"))
    made.add(1)
    made.deploy(live=1)
    return made


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_told_as_mlflow_tells_them(untouched: Stack, name: str) -> None:
    sent, kind, status, reason = BAD[name]
    got = ask(untouched, sent, kind=kind)
    assert got.status == status, got.answer
    if status == 415:
        assert dict(got.headers)["content-type"].startswith("text/plain")
        text = got.answer.decode()
    else:
        told = got.json()
        assert set(told) == {"error_code", "message"}
        assert told["error_code"] == ("RESOURCE_DOES_NOT_EXIST" if status == 404 else "BAD_REQUEST")
        text = told["message"]
    assert reason in text
    assert list(untouched.log.read("late")) == []


def test_what_cannot_be_accepted(stack: Stack) -> None:
    got = ask(stack, {"instances": [ROW]}, accept="image/png")
    assert (got.status, b"application/json" in got.answer) == (406, True)
    assert ask(stack, {"instances": [ROW]}, **{"tidemill-prediction-id": "x" * 201}).status == 400


def test_predictions_are_counted_like_all_others(stack: Stack) -> None:
    async def script(local: Any) -> str:
        await local.ask("POST", "/invocations", json.dumps({"instances": [ROW, ROW]}).encode(), 1, **JSON_TYPE)
        await local.ask("POST", "/late/invocations", b"{", 1, **JSON_TYPE)
        return str((await local.ask("GET", "/metrics")).answer.decode())

    lines = run(stack, script).splitlines()
    assert 'tidemill_serving_requests_total{service="late"} 2' in lines
    assert 'tidemill_serving_errors_total{service="late",status="400"} 1' in lines
    assert 'tidemill_serving_predictions_total{service="late",version="1",role="live"} 2' in lines
    assert 'tidemill_serving_latency_seconds_count{service="late"} 2' in lines


def test_a_token_may_come_as_the_password_of_basic_access(stack: Stack) -> None:
    from base64 import b64encode

    secret = stack.tokens.make("m", "data-scientist")
    body = json.dumps({"instances": [ROW]}).encode()

    async def script(local: Any) -> list[Any]:
        good, bad = (b64encode(f"any:{s}".encode()).decode() for s in (secret, "tm_wrong"))
        asked = [f"Basic {good}", f"basic {good}", f"Bearer {secret}", f"Basic {bad}", "Basic §", "", f"Basic {secret}"]
        got = [await local.ask("POST", "/invocations", body, 1, **JSON_TYPE, authorization=header) for header in asked]
        return [*(r.status for r in got), got[-1].json()["error_code"], (await local.ask("GET", "/ping")).status]

    assert run(stack, script, token=True) == [200, 200, 200, 401, 401, 401, 401, "CUSTOMER_UNAUTHORIZED", 200]
