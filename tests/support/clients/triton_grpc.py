"""tritonclient over gRPC: health, metadata, repository, infer alone, compressed and many at once, and errors."""

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

address, token = sys.argv[1:]
headers = {"authorization": f"Bearer {token}"}
client = triton.InferenceServerClient(address)
said: dict[str, Any] = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("late", headers=headers),
    "server": client.get_server_metadata(headers=headers).name,
    "model": [(m := client.get_model_metadata("late", headers=headers)).name, list(m.versions)],
    "index": [[m.name, m.version, m.state] for m in client.get_model_repository_index(headers=headers).models],
}
values = {
    "sky__wind": ("FP64", np.array([3.0, 4.0])),
    "sky__cover": ("BYTES", np.array(["cloudy", "clear"], dtype=object)),
    "carrier": ("BYTES", np.array(["UA", "AA"], dtype=object)),
    "hour": ("INT64", np.array([17, 18])),
    "gust": ("FP32", np.array([6.0, 8.0], dtype=np.float32)),
}
inputs = []
for name, (kind, array) in values.items():
    inputs.append(triton.InferInput(name, [2], kind))
    inputs[-1].set_data_from_numpy(array)


def shown(got: Any) -> dict[str, Any]:
    ids = [i.decode() for i in got.as_numpy("id").tolist()]
    return {"score": got.as_numpy("score").tolist(), "id": ids, "version": got.get_response().model_version}


said["raw"] = shown(client.infer("late", inputs, request_id="raw", headers=headers))
said["gzip"] = shown(client.infer("late", inputs, request_id="gzip", headers=headers, compression_algorithm="gzip"))
answers: queue.Queue[Any] = queue.Queue()
client.async_infer("late", inputs, lambda result, error: answers.put((result, error)), request_id="async", headers=headers)
said["async"] = shown(answers.get(timeout=20)[0])
for i in range(200):
    client.async_infer("late", inputs, lambda result, error: answers.put(error), request_id=f"many{i}", headers=headers)
said["many"] = sum(answers.get(timeout=20) is None for _ in range(200))
asks: dict[str, Any] = {
    "unknown": lambda: client.infer("lat", inputs, headers=headers),
    "no token": lambda: client.get_model_metadata("late"),
    "bad": lambda: client.infer("late", inputs[:1], headers=headers),
}
for name, ask in asks.items():
    try:
        ask()
    except triton.InferenceServerException as error:
        said[name] = [error.status(), error.message()]
client.unload_model("late", headers=headers)
said["unloaded"] = client.is_model_ready("late", headers=headers)
client.load_model("late", headers=headers)
said["loaded"] = client.is_model_ready("late", headers=headers)
sys.stdout.write(json.dumps(said))
