"""The Open Inference Protocol over gRPC: every method, typed and raw tensors, statuses, tokens, deadlines."""

import asyncio
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.support.serving_kit import FULL, LOOKUP, Local, Stack, sigmoid

from tidemill.adapters.grpc.messages import SERVICE, message
from tidemill.adapters.grpc.plain import plain
from tidemill.adapters.grpc.service import _answer
from tidemill.adapters.grpc.serving import open_grpc
from tidemill.core.errors import UnavailableError
from tidemill.serving import protocol
from tidemill.serving.ports import Prediction
from tidemill.serving.protocol import Call

SCORE = pytest.approx(sigmoid(1))
Code = grpc.StatusCode
KINDS = {str: ("BYTES", "bytes_contents"), float: ("FP64", "fp64_contents"), int: ("INT64", "int64_contents")}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack.of(tmp_path, live=1, shadow=2)


class Client:
    """Calls methods of a channel and answers messages, or the status as (code, details)."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    async def bytes(self, method: str, sent: bytes, *, token: str = "", within_s: float | None = None) -> Any:
        metadata = (("authorization", f"Bearer {token}"),) if token else None
        try:
            return await self.channel.unary_unary(f"/{SERVICE}/{method}")(sent, timeout=within_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()

    async def ask(self, method: str, *, token: str = "", within_s: float | None = None, **fields: Any) -> Any:
        got = await self.bytes(method, message(f"{method}Request")(**fields).SerializeToString(), token=token, within_s=within_s)
        return got if isinstance(got, tuple) else message(f"{method}Response").FromString(got)


def run(stack: Stack, script: Callable[[Local, Client], Any], **settings: Any) -> Any:
    async def go() -> Any:
        async with Local(stack, **settings) as local:
            beside = open_grpc(local.app, "127.0.0.1", 0)
            await beside.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{beside.port}") as channel:
                    return await script(local, Client(channel))
            finally:
                await beside.stop()

    return asyncio.run(go())


def typed(values: dict[str, Any], rows: int = 1, **more: Any) -> dict[str, Any]:
    """The fields of a request with typed contents."""
    inputs = []
    for name, value in values.items():
        kind, field = KINDS[type(value)]
        one = value.encode() if isinstance(value, str) else value
        inputs.append(message("InferInputTensor")(name=name, datatype=kind, shape=[rows], contents={field: [one] * rows}))
    return {"model_name": "late", "inputs": inputs, **more}


def raw(tensors: dict[str, tuple[str, list[int], bytes]], **more: Any) -> dict[str, Any]:
    inputs = [message("InferInputTensor")(name=n, datatype=kind, shape=shape) for n, (kind, shape, _) in tensors.items()]
    return {"model_name": "late", "inputs": inputs, "raw_input_contents": [data for *_, data in tensors.values()], **more}


def test_health_and_metadata(stack: Stack) -> None:
    async def script(_local: Local, client: Client) -> list[Any]:
        return [
            (await client.ask("ServerLive")).live,
            (await client.ask("ServerReady")).ready,
            (await client.ask("ModelReady", name="late")).ready,
            (await client.ask("ModelReady", name="late", version="2")).ready,
            await client.ask("ServerMetadata"),
            await client.ask("ModelMetadata", name="late"),
            (await client.ask("ModelReady", name="lat")),
            (await client.ask("ModelMetadata", name="late", version="9"))[0],
        ]

    *ready, server, model, unknown, version = run(stack, script)
    assert ready == [True] * 4
    assert (server.name, "binary_tensor_data" in server.extensions) == ("tidemill", True)
    assert (model.name, list(model.versions), model.platform) == ("late", ["1", "2"], "onnx_onnxv1")
    assert [(i.name, i.datatype, list(i.shape)) for i in model.inputs][:2] == [("sky__wind", "FP64", [-1]), ("sky__cover", "BYTES", [-1])]
    assert unknown == (Code.NOT_FOUND, "no model named 'lat'; did you mean 'late'?")
    assert version is Code.NOT_FOUND


def test_typed_tensors(stack: Stack) -> None:
    async def script(_local: Local, client: Client) -> list[Any]:
        return [await client.ask("ModelInfer", **typed(FULL, 2, id="t")), await client.ask("ModelInfer", **typed(LOOKUP, id="k"))]

    full, keys = run(stack, script)
    assert (full.model_name, full.model_version, full.id) == ("late", "1", "t")
    assert (full.parameters["role"].string_param, full.parameters["logged"].bool_param) == ("live", True)
    score, ids = full.outputs
    assert (score.name, score.datatype, list(score.shape), list(score.contents.fp64_contents)) == ("score", "FP64", [2], [SCORE, SCORE])
    assert list(ids.contents.bytes_contents) == [b"t/0", b"t/1"]
    assert not full.raw_output_contents
    assert stack.log.find("t/1")[0].values == stack.log.find("k")[0].values == (3.0, "cloudy", "UA", 17.0, 6.0)
    assert list(keys.outputs[0].contents.fp64_contents) == [SCORE]


def test_raw_tensors(stack: Stack) -> None:
    row = (3.0, float("nan"), 1.0, 17.0, 6.0)
    sent = raw(
        {"x": ("FP32", [2, 5], struct.pack("<10f", *row, *row))}, id="r", outputs=[message("InferRequestedOutputTensor")(name="score")]
    )
    got = run(stack, lambda _local, client: client.ask("ModelInfer", **sent))
    assert [o.name for o in got.outputs] == ["score"]
    assert struct.unpack("<2d", got.raw_output_contents[0]) == (SCORE, SCORE)
    assert stack.log.find("r/0")[0].values == (3.0, None, 1.0, 17.0, 6.0)


def test_a_missing_number_is_nan_and_versions_are_chosen(stack: Stack) -> None:
    sent = typed(FULL | {"gust": float("nan")}, id="n", model_version="2")
    got = run(stack, lambda _local, client: client.ask("ModelInfer", **sent))
    assert got.model_version == "2"
    assert stack.log.find("n")[0].values[4] is None


def test_what_a_model_cannot_explain_is_told(stack: Stack) -> None:
    sent = typed(FULL, parameters={"explain": message("InferParameter")(bool_param=True)})
    code, reason = run(stack, lambda _local, client: client.ask("ModelInfer", **sent))
    assert (code, bool(reason)) == (Code.INVALID_ARGUMENT, True)


def contents(name: str, datatype: str, shape: list[int], **fields: Any) -> dict[str, Any]:
    others = typed({k: v for k, v in FULL.items() if k != name})["inputs"]
    return {
        "model_name": "late",
        "inputs": [*others, message("InferInputTensor")(name=name, datatype=datatype, shape=shape, contents=fields)],
    }


@pytest.mark.parametrize(
    ("datatype", "field", "value"),
    [
        ("INT8", "int_contents", 17),
        ("INT16", "int_contents", 17),
        ("INT32", "int_contents", 17),
        ("UINT8", "uint_contents", 17),
        ("UINT32", "uint_contents", 17),
        ("UINT64", "uint64_contents", 17),
        ("FP32", "fp32_contents", 17.0),
        ("BOOL", "bool_contents", True),
    ],
)
def test_every_kind_of_contents(stack: Stack, datatype: str, field: str, value: Any) -> None:
    sent = contents("hour", datatype, [1], **{field: [value]})
    got = run(stack, lambda _local, client: client.ask("ModelInfer", **sent))
    assert list(got.outputs[0].contents.fp64_contents) == [SCORE]


BAD: dict[str, tuple[dict[str, Any], Any, str]] = {
    "no model": ({}, Code.NOT_FOUND, "no model named ''"),
    "no inputs": ({"model_name": "late"}, Code.INVALID_ARGUMENT, "inputs is empty"),
    "unknown version": (typed(FULL, model_version="7"), Code.NOT_FOUND, "'7'"),
    "unknown column": (typed(FULL | {"wind": 1.0}), Code.INVALID_ARGUMENT, "'wind'"),
    "unknown output": (typed(FULL, outputs=[message("InferRequestedOutputTensor")(name="x")]), Code.INVALID_ARGUMENT, "'x'"),
    "a key is missing": (typed({"origin": "JFK"}), Code.INVALID_ARGUMENT, "lacks 'carrier'"),
    "infinite": (typed(FULL | {"gust": float("inf")}), Code.INVALID_ARGUMENT, "'gust' has an infinite value"),
    "not utf-8": (contents("carrier", "BYTES", [1], bytes_contents=[b"\xff"]), Code.INVALID_ARGUMENT, "'carrier' has a text"),
    "shape": (contents("hour", "FP64", [2], fp64_contents=[1.0]), Code.INVALID_ARGUMENT, "'hour' has shape [2]"),
    "datatype": (contents("hour", "FP99", [1], fp64_contents=[1.0]), Code.INVALID_ARGUMENT, "'FP99'"),
    "no datatype": (contents("hour", "", [1], fp64_contents=[1.0]), Code.INVALID_ARGUMENT, "''"),
    "half": (contents("hour", "FP16", [1], fp32_contents=[1.0]), Code.INVALID_ARGUMENT, "raw_input_contents"),
    "another field": (contents("hour", "FP64", [1], fp32_contents=[1.0]), Code.INVALID_ARGUMENT, "it has fp32_contents"),
    "range": (contents("hour", "INT8", [1], int_contents=[200]), Code.INVALID_ARGUMENT, "outside of INT8"),
    "negative": (contents("hour", "UINT64", [1], uint64_contents=[2**63]), Code.INVALID_ARGUMENT, "outside of UINT64"),
    "raw and typed": (typed(FULL, raw_input_contents=[b""] * 5), Code.INVALID_ARGUMENT, "send one of them"),
    "raw for some": (
        raw({"hour": ("FP64", [1], b"12345678")}) | {"raw_input_contents": [b"", b""]},
        Code.INVALID_ARGUMENT,
        "2 entries for 1",
    ),
    "raw too short": (raw({"hour": ("FP64", [1], b"1234")}), Code.INVALID_ARGUMENT, "has 4 bytes"),
    "a long id": (typed(FULL, id="x" * 201), Code.INVALID_ARGUMENT, "200 at most"),
    "at": (typed(FULL, parameters={"at": message("InferParameter")(string_param="2013-01-01")}), Code.INVALID_ARGUMENT, "allow_at"),
    "at a number": (typed(FULL, parameters={"at": message("InferParameter")(int64_param=1)}), Code.INVALID_ARGUMENT, "ISO 8601"),
}


def test_bad_requests(stack: Stack) -> None:
    async def script(local: Local, client: Client) -> dict[str, Any]:
        got = {name: await client.ask("ModelInfer", **sent) for name, (sent, *_) in BAD.items()}
        got["errors"] = local.app.endpoints["late"].metrics.errors
        return got

    got = run(stack, script)
    for name, (_sent, code, reason) in BAD.items():
        assert isinstance(got[name], tuple), name
        assert got[name][0] is code, (name, got[name])
        assert reason in got[name][1], name
    assert list(stack.log.read("late")) == []
    assert got["errors"] == {400: 19, 404: 1}


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata", "RepositoryIndex", "RepositoryModelLoad"])
def test_bytes_that_are_no_message(stack: Stack, method: str) -> None:
    got = run(stack, lambda _local, client: client.bytes(method, b"\xff\xff\xff"))
    assert got[0] is Code.INVALID_ARGUMENT
    assert f"{method}Request" in got[1]


def test_a_method_that_is_not_there_and_a_message_that_is_too_large(stack: Stack) -> None:
    async def script(_local: Local, client: Client) -> list[Any]:
        return [await client.bytes("ModelStreamInfer", b""), await client.bytes("ModelInfer", b"x" * 5000), await client.ask("ServerLive")]

    absent, large, live = run(stack, script, max_body_bytes=4096)
    assert absent[0] is Code.UNIMPLEMENTED
    assert large[0] is Code.RESOURCE_EXHAUSTED
    assert live.live


def test_tokens(stack: Stack) -> None:
    viewer, scientist, engineer = (stack.tokens.make(r, r) for r in ("viewer", "data-scientist", "ml-engineer"))

    async def script(_local: Local, client: Client) -> list[list[Any]]:
        out = []
        for token in ("", "tm_wrong", viewer, scientist, engineer):
            asked = [
                await client.ask("ServerLive", token=token),
                await client.ask("ModelMetadata", name="late", token=token),
                await client.ask("ModelInfer", **typed(FULL), token=token),
                await client.ask("RepositoryModelLoad", model_name="late", token=token),
            ]
            out.append([got[0] if isinstance(got, tuple) else "ok" for got in asked])
        return out

    no, denied = Code.UNAUTHENTICATED, Code.PERMISSION_DENIED
    assert run(stack, script, token=True) == [
        ["ok", no, no, no],
        ["ok", no, no, no],
        ["ok", "ok", denied, denied],
        ["ok", "ok", "ok", denied],
        ["ok", "ok", "ok", "ok"],
    ]


def test_the_repository(stack: Stack) -> None:
    async def script(_local: Local, client: Client) -> list[Any]:
        before = [(m.name, m.version, m.state) for m in (await client.ask("RepositoryIndex")).models]
        await client.ask("RepositoryModelUnload", model_name="late")
        off = [(await client.ask("ModelInfer", **typed(LOOKUP)))[0], (await client.ask("ModelReady", name="late")).ready]
        left = [(m.name, m.state) for m in (await client.ask("RepositoryIndex")).models]
        ready = len((await client.ask("RepositoryIndex", ready=True)).models)
        await client.ask("RepositoryModelLoad", model_name="late")
        return [before, off, left, ready, (await client.ask("ModelReady", name="late")).ready]

    before, off, left, ready, after = run(stack, script)
    assert before == [("late", "1", "READY"), ("late", "2", "READY")]
    assert (off, left, ready, after) == ([Code.UNAVAILABLE, False], [("late", "UNAVAILABLE")], 0, True)


def test_the_settings_and_the_parameters_time_counts_as_the_deadline_does(stack: Stack) -> None:
    def asked(**parameters: Any) -> Callable[[Local, Client], Any]:
        given = {name: message("InferParameter")(**value) for name, value in parameters.items()}
        return lambda _local, client: client.ask("ModelInfer", **typed(FULL, parameters=given))

    late, explain = {"int64_param": 1}, {"bool_param": True}
    for code, reason in (
        run(stack, asked(timeout=late)),
        run(stack, asked(timeout=late, explain=explain)),
        run(stack, asked(), timeout_s=1e-6),
    ):
        assert (code, "within 1e-06 s" in reason) == (Code.DEADLINE_EXCEEDED, True)
    assert list(stack.log.read("late")) == [], "nothing was computed"
    assert run(stack, asked(timeout={"string_param": "soon"}))[0] is Code.INVALID_ARGUMENT
    assert run(stack, asked(timeout={"int64_param": 60_000_000}), timeout_s=60.0).id


def test_a_request_whose_deadline_has_passed_is_not_computed(stack: Stack) -> None:
    async def script(local: Local, client: Client) -> Any:
        endpoint = local.app.endpoints["late"]
        held: list[Any] = []
        submit = endpoint.submit
        endpoint.submit = lambda call, **_: held.append(call) or asyncio.get_running_loop().create_future()  # type: ignore[method-assign, func-returns-value]
        late = await client.ask("ModelInfer", **typed(FULL, id="late"), within_s=0.2)
        assert len(held) == 1
        endpoint.submit = submit  # type: ignore[method-assign]
        with suppress(asyncio.CancelledError):
            gone = endpoint.submit(held[0])
            gone.cancel()
            await asyncio.sleep(0.05)
        return late, await client.ask("ModelInfer", **typed(FULL, id="in time"), within_s=20)

    late, in_time = run(stack, script)
    assert late[0] is Code.DEADLINE_EXCEEDED
    assert in_time.id == "in time"
    assert {p.id for p in stack.log.read("late")} == {"in time"}


def test_calls_that_meet_are_scored_together_and_counted(stack: Stack) -> None:
    async def script(local: Local, client: Client) -> Any:
        await client.ask("ServerLive")
        answers = await asyncio.gather(*(client.ask("ModelInfer", **typed(LOOKUP, id=f"g{i}")) for i in range(30)))
        assert [a.id for a in answers] == [f"g{i}" for i in range(30)]
        return local.app.endpoints["late"].metrics

    metrics = run(stack, script)
    assert metrics.requests == sum(metrics.latency.counts) == 30
    assert sum(metrics.batch.counts) < 30


def test_large_messages_go_both_ways_in_the_windows_that_the_peers_give(stack: Stack) -> None:
    rows = 10_000
    sent = raw({"x": ("FP64", [rows, 5], struct.pack("<5d", 3.0, 0.0, 1.0, 17.0, 6.0) * rows)}, id="large")

    async def script(_local: Local, client: Client) -> list[Any]:
        return await asyncio.gather(*(client.ask("ModelInfer", **{**sent, "id": f"large-{i}"}) for i in range(4)))

    for i, got in enumerate(run(stack, script)):
        assert len(got.raw_output_contents[0]) == 8 * rows
        assert got.raw_output_contents[1].endswith(f"large-{i}/9999".encode())


def test_compressed_messages(stack: Stack) -> None:
    sent = message("ModelInferRequest")(**typed(FULL, id="z")).SerializeToString()

    async def script(_local: Local, client: Client) -> list[Any]:
        call = client.channel.unary_unary(f"/{SERVICE}/ModelInfer")
        return [message("ModelInferResponse").FromString(await call(sent, compression=how)) for how in grpc.Compression]

    assert [got.id for got in run(stack, script)] == ["z"] * 3


def test_a_caller_that_goes_is_not_answered_and_the_connection_goes_on(stack: Stack) -> None:
    async def script(local: Local, client: Client) -> Any:
        endpoint, loop = local.app.endpoints["late"], asyncio.get_running_loop()
        submit, asked = endpoint.submit, asyncio.Event()
        held: list[Any] = [loop.create_future()]
        endpoint.submit = lambda call, **_: asked.set() or held[0]  # type: ignore[method-assign, func-returns-value]
        call = client.channel.unary_unary(f"/{SERVICE}/ModelInfer")(message("ModelInferRequest")(**typed(FULL)).SerializeToString())
        task = asyncio.ensure_future(call)
        await asked.wait()
        task.cancel()
        call.cancel()
        for _ in range(200):
            if held[0].cancelled():
                break
            await asyncio.sleep(0.01)
        endpoint.submit = submit  # type: ignore[method-assign]
        return held[0].cancelled(), local.app.in_flight, (await client.ask("ModelInfer", **typed(FULL, id="next"))).id

    assert run(stack, script) == (True, 0, "next")


@pytest.mark.parametrize("name", ["", "a", "x" * 127, "x" * 128, "ü" * 200])
@pytest.mark.parametrize("logged", [True, "degraded", "sampled"])
def test_the_short_way_of_most_answers_is_the_long_one(name: str, logged: bool | str) -> None:
    given = Prediction("p", "late", "late", 12, "canary", 5, 0.25, (), ())
    call = Call(name, [name or "row"], [], None)
    assert message("ModelInferResponse").FromString(plain(call.id, call.ids[0], "late", given, logged)) == message(
        "ModelInferResponse"
    ).FromString(_answer(protocol.answered(call, "late", [given], logged), raw=False))


def test_a_port_that_is_taken(stack: Stack) -> None:
    async def script(local: Local, _client: Client) -> None:
        other = open_grpc(local.app, "256.0.0.1", 1)
        with pytest.raises(UnavailableError, match="grpc_port"):
            await other.start()
        await open_grpc(local.app, "127.0.0.1", 0).stop()

    run(stack, script)


def test_calls_beyond_what_is_taken_at_once_are_refused(stack: Stack) -> None:
    async def script(_local: Local, client: Client) -> list[Any]:
        return list(await asyncio.gather(*(client.ask("ModelInfer", **typed(FULL)) for _ in range(12))))

    answers = run(stack, script, max_in_flight=2)
    refused = [a for a in answers if isinstance(a, tuple)]
    assert 0 < len(refused) < 12
    assert {code for code, _ in refused} == {Code.UNAVAILABLE}
    assert len(list(stack.log.read("late", roles=("live", "canary")))) == 12 - len(refused)
