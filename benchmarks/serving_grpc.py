"""Requests per second over gRPC beside REST: the model and the server of benchmarks/serving.py, one row a request, all of it logged.

    python benchmarks/serving_grpc.py --json [--quick]

Needs `h2load` (apt-get install nghttp2-client), which asks both: REST on 32 connections, gRPC on 32 connections with a call each, and gRPC
with 32 calls at once on one connection, as gRPC's clients ask.
"""

import json
import re
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import kit
import servers
import serving

REQUESTS = {True: 6_000, False: 20_000}


def make_message(home: Path) -> None:
    """The REST body as a gRPC message with its prefix."""
    from tidemill.adapters.grpc.messages import message

    tensor = json.loads((home / "tidemill-1.json").read_text())["inputs"][0]
    contents = {"fp64_contents": tensor["data"]}
    given = message("InferInputTensor")(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"], contents=contents)
    sent = message("ModelInferRequest")(model_name="bench", inputs=[given]).SerializeToString()
    (home / "grpc-1").write_bytes(struct.pack(">BI", 0, len(sent)) + sent)


def ask(home: Path, url: str, body: str, requests: int, *more: str) -> float:
    """Requests per second that h2load counts; every one must succeed."""
    token = (home / kit.OURS / "token").read_text()
    command = ["h2load", "-n", str(requests), "-d", str(home / body), "-H", f"authorization: Bearer {token}", *more, url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if f"{requests} succeeded" not in said:
        raise RuntimeError(said)
    found = re.search(r"([\d.]+) req/s", said)
    assert found is not None
    return float(found[1])


def main() -> None:
    if "--serve" in sys.argv:
        home, port, beside = sys.argv[2:]
        serving.serve_tidemill(Path(home), int(port), int(beside))
        return
    options = kit.arguments(__doc__ or "")
    servers.need("h2load")
    kit.machine("tidemill", "granian", "onnxruntime", "lightgbm")
    with kit.scratch() as home:
        serving.make_model(home)
        make_message(home)
        port, beside = servers.free_port(), servers.free_port()
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(home), str(port), str(beside)]
        with servers.started(command, port, home / "server.log"):
            rest, call = (
                f"http://127.0.0.1:{port}/v2/models/bench/infer",
                f"http://127.0.0.1:{beside}/inference.GRPCInferenceService/ModelInfer",
            )
            grpc, n = ("-H", "content-type: application/grpc", "-H", "te: trailers"), REQUESTS[options.quick]
            runs = {
                "rest-c32": partial(ask, home, rest, "tidemill-1.json", n, "--h1", "-c", "32"),
                "grpc-c32": partial(ask, home, call, "grpc-1", n, "-c", "32", "-m", "1", *grpc),
                "grpc-c1-m32": partial(ask, home, call, "grpc-1", n, "-c", "1", "-m", "32", *grpc),
            }
            for run in runs.values():
                run()
            rates = kit.interleave(runs, 3 if options.quick else 5)
            kit.report("serve-grpc", rates, "requests/s", floor="rest-c32", better="higher")


if __name__ == "__main__":
    main()
