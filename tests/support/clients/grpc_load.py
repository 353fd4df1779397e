"""Asks over gRPC, one call after the other on several connections, until the server is gone; says what was answered and what failed."""

import json
import sys

import grpc
import tritonclient.grpc.service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

address, token = sys.argv[1:]
options = [("grpc.use_local_subchannel_pool", 1)]
stubs = [GRPCInferenceServiceStub(grpc.insecure_channel(address, options)) for _ in range(4)]
request = messages.ModelInferRequest(model_name="late")
for name, kind, field, value in (
    ("sky__wind", "FP64", "fp64_contents", 3.0),
    ("sky__cover", "BYTES", "bytes_contents", b"cloudy"),
    ("carrier", "BYTES", "bytes_contents", b"UA"),
    ("hour", "FP64", "fp64_contents", 17.0),
    ("gust", "FP64", "fp64_contents", 6.0),
):
    getattr(request.inputs.add(name=name, datatype=kind, shape=[1]).contents, field).append(value)
answered, failed, gone = 0, [], False
while not gone:
    request.id = f"g{answered}"
    try:
        stubs[answered % len(stubs)].ModelInfer(request, metadata=(("authorization", f"Bearer {token}"),), timeout=10)
        answered += 1
    except grpc.RpcError as error:
        gone = error.code() is grpc.StatusCode.UNAVAILABLE
        if not gone or ("refused" not in error.details() and "GOAWAY" not in error.details() and "connect" not in error.details()):
            failed.append([str(error.code()), error.details()])
sys.stdout.write(json.dumps({"answered": answered, "failed": failed}))
