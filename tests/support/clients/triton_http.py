"""tritonclient over HTTP: health, metadata, repository, infer in JSON and in binary, compressed, and errors."""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton

address, token = sys.argv[1:]
headers = {"authorization": f"Bearer {token}"}
client = triton.InferenceServerClient(address)
said: dict[str, Any] = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("late", headers=dict(headers)),
    "server": client.get_server_metadata(headers=dict(headers)),
    "model": client.get_model_metadata("late", headers=dict(headers)),
    "index": client.get_model_repository_index(headers=dict(headers)),
}
values = {
    "sky__wind": np.array([3.0, 4.0]),
    "sky__cover": np.array(["cloudy", "clear"], dtype=object),
    "carrier": np.array(["UA", "AA"], dtype=object),
    "hour": np.array([17, 18], dtype=np.int64),
    "gust": np.array([6.0, 8.0], dtype=np.float32),
}
kinds = {"sky__wind": "FP64", "hour": "INT64", "gust": "FP32"}


def inputs(*, binary: bool) -> list[Any]:
    out = []
    for name, array in values.items():
        tensor = triton.InferInput(name, [2], kinds.get(name, "BYTES"))
        tensor.set_data_from_numpy(array, binary_data=binary)
        out.append(tensor)
    return out


for name, binary, outputs, more in [
    ("json", False, [triton.InferRequestedOutput(o, binary_data=False) for o in ("score", "id")], {}),
    ("binary", True, None, {}),
    ("mixed", True, [triton.InferRequestedOutput("score", binary_data=False), triton.InferRequestedOutput("id")], {}),
    ("gzip", True, None, {"request_compression_algorithm": "gzip"}),
]:
    got = client.infer("late", inputs(binary=binary), outputs=outputs, request_id=name, headers=dict(headers), **more)
    ids = [i.decode() if isinstance(i, bytes) else i for i in got.as_numpy("id").tolist()]
    said[name] = {"score": got.as_numpy("score").tolist(), "id": ids, "version": got.get_response()["model_version"]}
asks: dict[str, Any] = {
    "unknown": lambda: client.infer("lat", inputs(binary=True), headers=dict(headers)),
    "no token": lambda: client.get_model_metadata("late"),
    "bad": lambda: client.infer("late", inputs(binary=True)[:1], headers=dict(headers)),
}
for name, ask in asks.items():
    try:
        ask()
    except triton.InferenceServerException as error:
        said[name] = [error.status(), error.message()]
client.unload_model("late", headers=dict(headers))
said["unloaded"] = client.is_model_ready("late", headers=dict(headers))
client.load_model("late", headers=dict(headers))
said["loaded"] = client.is_model_ready("late", headers=dict(headers))
sys.stdout.write(json.dumps(said))
