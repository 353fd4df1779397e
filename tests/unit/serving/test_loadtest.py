"""Load tests: what is drawn from the log, what is written, and what is read back."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import COLUMNS, FULL, LATE, LOOKUP, Local, Stack

from tidemill.adapters.locust.run import _read, run
from tidemill.adapters.locust.write import FILE, logged_calls, write
from tidemill.core.errors import ConfigError, InvalidError, UnavailableError
from tidemill.serving.ports import Prediction


def answered(id_: str, request: dict[str, Any], values: tuple[Any, ...] = tuple(FULL.values())) -> Prediction:
    return Prediction(id_, "late", "late", 1, "live", 1, 0.5, COLUMNS, values, request)


def test_rows_of_one_call_stay_one_call_and_inputs_stand_in_where_nothing_was_looked_up() -> None:
    rows = [answered("a", LOOKUP), *(answered(f"b/{i}", LOOKUP) for i in range(3)), answered("c/0", LOOKUP), answered("d", {})]
    found = list(logged_calls(LATE, rows))
    assert [len(call) for call in found] == [1, 3, 1, 1]
    assert found[0] == [{name: LOOKUP[name] for name in LATE.request_columns}]
    assert found[-1] == [FULL]


def test_times_become_texts_and_hashes_are_refused() -> None:
    at = datetime(2013, 1, 1, 17, 30, tzinfo=UTC)
    assert next(logged_calls(LATE, [answered("a", {**LOOKUP, "scheduled_at": at})]))[0]["scheduled_at"] == "2013-01-01T17:30:00Z"
    with pytest.raises(InvalidError, match="only hashes of carrier"):
        list(logged_calls(LATE, [answered("a", {**LOOKUP, "carrier": "pii:" + 24 * "0"})]))


def test_what_is_written_is_a_locust_file_whose_bodies_a_server_takes(tmp_path: Path) -> None:
    import asyncio

    told = write(LATE, [[LOOKUP, LOOKUP], [FULL]], tmp_path)
    assert (told["calls"], told["rows"], told["most_rows"]) == (2, 3, 2)
    names = {node.name for node in ast.parse((tmp_path / FILE).read_text()).body if isinstance(node, ast.ClassDef)}
    assert names == {"Caller"}
    stack = Stack(tmp_path)
    stack.add(1)
    stack.deploy(live=1)

    async def script() -> list[int]:
        async with Local(stack) as local:
            return [(await local.infer(line.encode())).status for line in (tmp_path / "requests.jsonl").read_text().splitlines()]

    assert asyncio.run(script()) == [200, 200]


def test_nothing_to_draw_from_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="give --requests FILE"):
        write(replace(LATE, name="quiet"), [], tmp_path)


HEAD = "Type,Name,Request Count,Failure Count,Requests/s,50%,95%,99%,99.9%,100%\n"
HISTORY = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,95%,99%\n"


def test_what_locust_measured_is_read(tmp_path: Path) -> None:
    (tmp_path / "result_stats.csv").write_text(HEAD + "POST,infer,5,1,2.5,1,2,3,4,5\n,Aggregated,5,1,2.5,1,2,3,4,5\n")
    (tmp_path / "result_stats_history.csv").write_text(HISTORY + "100,2,,Aggregated,0.0,0.0,N/A,N/A,N/A\n101,2,,Aggregated,2.5,0.5,1,2,3\n")
    (tmp_path / "result_failures.csv").write_text("Method,Name,Error,Occurrences\nPOST,infer,status 503,1\n")
    found = _read(tmp_path / "result")
    assert (found["requests"], found["failures"], found["rate"]) == (5, 1, 2.5)
    assert found["latency_ms"] == {"p50": 1, "p95": 2, "p99": 3, "p999": 4, "max": 5}
    assert found["history"] == [[0, 2, 0.0, 0.0, None, None, None], [1, 2, 2.5, 0.5, 1, 2, 3]]
    assert found["errors"] == [{"error": "status 503", "n": 1}]


def test_no_call_at_all_is_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "result_stats.csv").write_text(HEAD + ",Aggregated,0,0,0.0,0,0,0,0,0\n")
    with pytest.raises(UnavailableError, match="address"):
        _read(tmp_path / "result")


def test_an_interpreter_without_locust_is_told(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(ConfigError, match=r"tidemill\[locust\]"):
        run(tmp_path / FILE, "http://127.0.0.1:1", users=1, time="1s", python=str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="cannot be started"):
        run(tmp_path / FILE, "http://127.0.0.1:1", users=1, time="1s", python=str(tmp_path / "nothing"))
    with pytest.raises(InvalidError, match="at least a second"):
        run(tmp_path / FILE, "http://127.0.0.1:1", users=1, time="10ms")


def test_bodies_are_json_lines(tmp_path: Path) -> None:
    write(LATE, [[LOOKUP]], tmp_path)
    [line] = (tmp_path / "requests.jsonl").read_text().splitlines()
    assert [t["name"] for t in json.loads(line)["inputs"]] == list(LOOKUP)
