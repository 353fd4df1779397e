"""Open Inference Protocol v2 over REST beyond JSON infer: repository, binary tensors, compression, versions."""

import asyncio
import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LOOKUP, Local, Reply, Stack, body, run, sigmoid, tensors


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack.of(tmp_path, live=1, shadow=2)


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<I", len(raw)) + raw


RAW = {
    "sky__wind": ("FP64", struct.pack("<2d", 3.0, float("nan"))),
    "sky__cover": ("BYTES", text("cloudy") * 2),
    "carrier": ("BYTES", text("UA") + text("AA")),
    "hour": ("INT32", struct.pack("<2i", 17, 18)),
    "gust": ("FP32", struct.pack("<2f", 6.0, 7.5)),
}


def packed(raw: dict[str, tuple[str, bytes]] = RAW, rows: int = 2, sizes: dict[str, Any] | None = None, **more: Any) -> tuple[bytes, str]:
    """A body with binary inputs and the length of its JSON."""
    inputs = [
        {"name": n, "datatype": kind, "shape": [rows], "parameters": {"binary_data_size": (sizes or {}).get(n, len(data))}}
        for n, (kind, data) in raw.items()
    ]
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + b"".join(data for _, data in raw.values()), str(len(head))


def ask(stack: Stack, sent: bytes, length: str, **headers: str) -> Reply:
    given = {"inference-header-content-length": length} if length else {}
    got: Reply = run(stack, lambda local: local.infer(sent, **given, **headers))
    return got


def test_the_server_says_what_it_can(stack: Stack) -> None:
    got = run(stack, lambda local: local.ask("GET", "/v2")).json()
    assert got["extensions"] == ["model_repository", "model_repository(unload)", "binary_tensor_data", "parameters"]


def test_binary_inputs(stack: Stack) -> None:
    sent, length = packed(id="b")
    got = ask(stack, sent, length).json()
    assert got["outputs"][0]["data"] == [pytest.approx(sigmoid(1))] * 2
    assert stack.log.find("b/0")[0].values == (3.0, "cloudy", "UA", 17.0, 6.0)
    assert stack.log.find("b/1")[0].values == (None, "cloudy", "AA", 18.0, 7.5)


def test_binary_and_json_inputs_mix_and_outputs_come_as_asked(stack: Stack) -> None:
    some = {name: RAW[name] for name in ("sky__wind", "gust")}
    plain = [t for t in tensors(FULL, 2) if t["name"] not in some]
    head = json.loads(packed(some)[0][: int(packed(some)[1])])
    head |= {"inputs": plain + head["inputs"], "outputs": [{"name": "score", "parameters": {"binary_data": True}}, {"name": "id"}]}
    encoded = json.dumps(head | {"id": "m"}).encode()
    got = ask(stack, encoded + b"".join(data for _, data in some.values()), str(len(encoded)))
    assert got.status == 200
    length = int(dict(got.headers)["inference-header-content-length"])
    answer = json.loads(got.answer[:length])
    assert answer["outputs"][0] == {"name": "score", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}
    assert struct.unpack("<2d", got.answer[length:]) == (pytest.approx(sigmoid(1)),) * 2
    assert answer["outputs"][1]["data"] == ["m/0", "m/1"]


def test_all_outputs_in_binary_by_one_parameter(stack: Stack) -> None:
    got = ask(stack, body(FULL, id="x", parameters={"binary_data_output": True}), "")
    length = int(dict(got.headers)["inference-header-content-length"])
    assert got.answer[length + 8 :] == text("x")


def test_a_matrix_of_another_datatype(stack: Stack) -> None:
    sent, length = packed({"x": ("FP16", struct.pack("<10e", *([1.5, 2, 3, 4, 5] * 2)))})
    sent = sent.replace(b'"shape": [2]', b'"shape": [2, 5]')
    assert ask(stack, sent, str(int(length) + 3)).status == 200
    assert [p.values for p in stack.log.read("late") if p.role == "live"] == [(1.5, 2.0, 3.0, 4.0, 5.0)] * 2


BAD: dict[str, tuple[tuple[bytes, str], str]] = {
    "length is no number": ((packed()[0], "x"), "Inference-Header-Content-Length"),
    "length too long": ((packed()[0], "100000"), "Inference-Header-Content-Length"),
    "length too short": ((packed()[0], "20"), "not JSON"),
    "no length": ((packed()[0], ""), "not JSON"),
    "too few bytes": ((packed()[0][:-1], packed()[1]), "'gust' has binary_data_size 8; 7 bytes"),
    "bytes are left": ((packed()[0] + b"1", packed()[1]), "1 bytes of binary data belong to no input"),
    "size is no number": (packed(sizes={"hour": "8"}), "binary_data_size '8'"),
    "negative size": (packed(sizes={"hour": -8}), "binary_data_size -8"),
    "wrong size for shape": (packed({"gust": ("FP32", b"1234")}), "2 values of FP32 are 8"),
    "text cut": (packed({"carrier": ("BYTES", text("UA") + b"\x09\x00\x00\x00x")}), "ends within a text"),
    "text not utf-8": (packed({"carrier": ("BYTES", b"\x01\x00\x00\x00\xff" * 2)}), "not UTF-8"),
    "infinite": (packed({"gust": ("FP32", struct.pack("<2f", 1, float("inf")))}), "infinite"),
    "unknown datatype": (packed({"gust": ("FP99", b"12345678")}), "FP99"),
    "negative shape": (packed(rows=-2), "no dimension is negative"),
    "large unsigned": (packed({"hour": ("UINT64", b"\xff" * 16)}), "2**63"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_binary_data(stack: Stack, name: str) -> None:
    (sent, length), reason = BAD[name]
    got = ask(stack, sent, length)
    assert (got.status, list(got.json())) == (400, ["error"])
    assert reason in got.json()["error"]
    assert list(stack.log.read("late")) == []


def test_compressed_bodies(stack: Stack) -> None:
    sent = body(FULL, id="z")
    assert ask(stack, gzip.compress(sent), "", **{"content-encoding": "gzip"}).json()["id"] == "z"
    assert ask(stack, zlib.compress(sent), "", **{"content-encoding": "deflate"}).status == 200
    assert ask(stack, gzip.compress(sent)[:-9], "", **{"content-encoding": "gzip"}).status == 400
    assert ask(stack, b"\x00nothing", "", **{"content-encoding": "gzip"}).status == 400
    assert ask(stack, b"\x00nothing", "", **{"content-encoding": "br"}).status == 400
    bomb = gzip.compress(b"[" * (9 << 20))
    assert ask(stack, bomb, "", **{"content-encoding": "gzip"}).status == 413


@pytest.mark.parametrize("kind", ["UINT8", "INT8", "UINT16", "INT16", "UINT32", "UINT64", "FP16", "INT64"])
def test_every_datatype_as_json_flat_or_row_by_row(stack: Stack, kind: str) -> None:
    for data in ([1, 2, 3, 4, 5] * 2, [[1, 2, 3, 4, 5]] * 2):
        sent = json.dumps({"inputs": [{"name": "x", "datatype": kind, "shape": [2, 5], "data": data}]}).encode()
        assert ask(stack, sent, "").status == 200


def test_columns_row_by_row(stack: Stack) -> None:
    sent = [{**t, "shape": [2, 1], "data": [[v] for v in t["data"]]} for t in tensors(FULL, 2)]
    assert run(stack, lambda local: local.infer(json.dumps({"inputs": sent}).encode())).status == 200
    sent[2]["data"] = [["UA"], ["AA", "UA"]]
    got = run(stack, lambda local: local.infer(json.dumps({"inputs": sent}).encode()))
    assert (got.status, "'carrier' says shape" in got.json()["error"]) == (400, True)


def test_the_repository_lists_and_unloads_until_loaded(stack: Stack) -> None:
    async def script(local: Local) -> list[Any]:
        async def index(sent: bytes = b"") -> Any:
            return (await local.ask("POST", "/v2/repository/index", sent)).json()

        before = await index()
        gone = await local.ask("POST", "/v2/repository/models/late/unload", b"{}")
        await asyncio.sleep(0.1)  # polled meanwhile
        off = [(await local.infer(body(LOOKUP))).status, (await local.ask("GET", "/v2/models/late/ready")).status, await index()]
        only_ready = await index(b'{"ready": true}')
        back = await local.ask("POST", "/v2/repository/models/late/load")
        return [before, gone.status, off, only_ready, back.json(), (await local.infer(body(LOOKUP))).status]

    before, gone, off, only_ready, back, after = run(stack, script, poll_s=0.02)
    ready = {"name": "late", "state": "READY", "reason": ""}
    assert before == [{**ready, "version": "1"}, {**ready, "version": "2"}]
    assert gone == 200
    assert off[:2] == [503, 503]
    assert off[2][0]["state"] == "UNAVAILABLE"
    assert "unloaded by a request" in off[2][0]["reason"]
    assert only_ready == []
    assert (list(back), after) == (["changed"], 200)  # the poll may have been first


@pytest.mark.parametrize("sent", [b"[]", b"{", b'{"ready": 1}', b"\xff"])
def test_a_bad_index_request(stack: Stack, sent: bytes) -> None:
    got = run(stack, lambda local: local.ask("POST", "/v2/repository/index", sent))
    assert (got.status, list(got.json())) == (400, ["error"])
