"""Valid requests of every protocol, a server in this process that is asked by whoever is no coroutine, and what each answer has to be."""

import asyncio
import json
import struct
from typing import Any

from tests.support.serving_kit import FULL, LOOKUP, Local, Reply, Stack, body
from tidemill.adapters.grpc.messages import message
from tidemill.adapters.grpc.service import InferenceService, status_of

ROW = list(FULL.values())
SPLIT = {"columns": list(FULL), "data": [ROW]}
VALID: dict[str, list[Any]] = {
    "/v2/models/late/infer": [json.loads(body(FULL)), json.loads(body(LOOKUP, 2, id="a"))],
    "/v2/models/late/versions/1/infer": [json.loads(body(FULL, outputs=[{"name": "score", "parameters": {"binary_data": True}}]))],
    "/v2/repository/index": [{"ready": True}],
    "/invocations": [{"dataframe_split": SPLIT}, {"dataframe_records": [FULL]}, {"instances": [ROW], "params": {}}, {"inputs": LOOKUP}],
    "/v1/models/late:predict": [{"instances": [FULL]}, {"inputs": {n: [v] for n, v in FULL.items()}, "signature_name": "serving_default"}],
    "/v1/models/late/labels/live:classify": [{"examples": [FULL], "context": {"hour": 1}}],
    "/api/v1.0/predictions": [
        {"meta": {"puid": "p"}, "data": {"names": list(FULL), "ndarray": [ROW]}},
        {"data": {"tensor": {"shape": [1, 5], "values": [1, 2, 3, 4, 5]}}},
        {"jsonData": LOOKUP},
    ],
    "/api/v1.0/feedback": [{"response": {"meta": {"puid": "p"}}, "truth": {"data": {"ndarray": [[1]]}}, "reward": 0}],
}
SHAPES = {"/v2": ["error"], "/inv": ["error_code", "message"], "/v1": ["error"], "/api": ["status"]}

GOOD = message("ModelInferRequest")(
    model_name="late",
    id="g",
    inputs=[message("InferInputTensor")(name="x", datatype="FP64", shape=[1, 5], contents={"fp64_contents": [1, 2, 3, 4, 5]})],
).SerializeToString()
RAW = message("ModelInferRequest")(
    model_name="late",
    inputs=[message("InferInputTensor")(name="x", datatype="FP32", shape=[1, 5])],
    raw_input_contents=[struct.pack("<5f", *range(5))],
).SerializeToString()


class Asker:
    """A server in this thread's event loop, asked by tests that are no coroutines."""

    def __init__(self, stack: Stack) -> None:
        self.runner = asyncio.Runner()
        self.local = Local(stack, feedback=lambda _service, values, _who: len(values))
        self.runner.run(self.local.__aenter__())
        self.service = InferenceService(self.local.app)

    def ask(self, method: str, path: str, sent: bytes, **headers: str) -> Reply:
        return self.runner.run(self.local.ask(method, path, sent, 1, **headers))

    def close(self) -> None:
        self.runner.run(self.local.__aexit__())
        self.runner.close()

    def ask_grpc(self, method: str, sent: bytes) -> tuple[int, str]:
        """The status code and reason of an answer; (0, "") when it went well."""

        async def ask() -> None:
            if method == "ModelInfer":
                infer = self.service.infer(sent, "", None)
                infer.finish(await asyncio.wait({infer.future}) and infer.future)
            else:
                await self.service.methods[method](sent, "", None)

        try:
            self.runner.run(ask())
        except Exception as error:
            return status_of(error)
        return 0, ""


def check(path: str, reply: Reply) -> None:
    assert 200 <= reply.status < 500, (path, reply.status, reply.answer)
    if reply.status >= 400 and reply.status not in (406, 415):
        told = json.loads(reply.answer)
        assert list(told) == next((shape for start, shape in SHAPES.items() if path.startswith(start)), ["error"]), (path, told)
        assert "Traceback" not in reply.answer.decode()
