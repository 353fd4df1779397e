"""Whatever is sent to whichever path of whichever protocol, the answer is no 5xx and has the protocol's shape.

`TIDEMILL_FUZZ=20000` is for nights; by default it is short.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from tests.support.protocol_requests import GOOD, RAW, VALID, Asker, check
from tests.support.serving_kit import FULL, Stack

EXAMPLES = int(os.environ.get("TIDEMILL_FUZZ", "150"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
KINDS = ["application/json", "text/csv", "application/jsonlines", "text/csv; header=present", "application/octet-stream", "x", ""]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*FULL, "BYTES", "FP32", "INT8", "score", {"b64": "AA"}, {"b64": 1}, 2**63, 1e300, "2013-01-01", "\ud800"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", *FULL]) | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def altered(draw: st.DrawFn, valid: Any) -> Any:
    """A valid value with one part of it replaced, left out, repeated or named otherwise."""
    if isinstance(valid, dict) and valid and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(valid)))
        what = draw(st.integers(0, 4))
        rest = {k: v for k, v in valid.items() if k != key}
        if what == 0:
            return rest
        if what == 1:
            return {**rest, draw(st.text(max_size=4)): valid[key]}
        return {**valid, key: draw(altered(valid[key]))}
    if isinstance(valid, list) and valid and draw(st.integers(0, 3)):
        place, what = draw(st.integers(0, len(valid) - 1)), draw(st.integers(0, 4))
        if what == 0:
            return valid[:place] + valid[place + 1 :]
        if what == 1:
            return [*valid, draw(values)]
        return [*valid[:place], draw(altered(valid[place])), *valid[place + 1 :]]
    return draw(values)


def scrambled(sent: bytes, places: list[tuple[int, bytes]]) -> bytes:
    for place, new in places:
        at = place % (len(sent) + 1)
        sent = sent[:at] + new + sent[at + len(new) // 2 :]
    return sent


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    stack = Stack(tmp_path_factory.mktemp("fuzz"))
    stack.add(1)
    stack.deploy(live=1)
    made = Asker(stack)
    yield made
    made.close()


@given(data=st.data())
@fuzzed
def test_altered_requests(asker: Asker, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(VALID)))
    sent = data.draw(altered(data.draw(st.sampled_from(VALID[path]))))
    check(path, asker.ask("POST", path, json.dumps(sent).encode("utf-8", "surrogatepass"), **{"content-type": "application/json"}))


@given(
    path=st.sampled_from(sorted(VALID)),
    which=st.integers(0, 9),
    places=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=3),
    kind=st.sampled_from(KINDS),
    more=st.dictionaries(
        st.sampled_from(["accept", "content-encoding", "inference-header-content-length", "tidemill-prediction-id", "authorization"]),
        st.sampled_from(["", "1", "10", "99999", "gzip", "deflate", "text/csv", "*/*", "-1", "Basic x", "Bearer "]) | st.text(max_size=4),
        max_size=2,
    ),
)
@fuzzed
def test_scrambled_bytes(asker: Asker, path: str, which: int, places: list[tuple[int, bytes]], kind: str, more: dict[str, str]) -> None:
    sent = scrambled(json.dumps(VALID[path][which % len(VALID[path])]).encode(), places)
    check(path, asker.ask("POST", path, sent, **{"content-type": kind, **more}))


@given(
    text=st.text(max_size=60) | st.lists(st.sampled_from(["1.0", "UA", "", "nan", "inf", '"', ",", "\n", *FULL]), max_size=14).map(",".join)
)
@fuzzed
def test_csv(asker: Asker, text: str) -> None:
    check("/invocations", asker.ask("POST", "/invocations", text.encode("utf-8", "surrogatepass"), **{"content-type": "text/csv"}))


@given(
    sizes=st.lists(st.integers(-1, 30), min_size=1, max_size=4),
    kind=st.sampled_from(["FP64", "FP16", "BYTES", "BOOL", "INT64", "XX"]),
    tail=st.binary(max_size=60),
    cut=st.integers(-5, 5),
)
@fuzzed
def test_binary_tensors(asker: Asker, sizes: list[int], kind: str, tail: bytes, cut: int) -> None:
    names = [*FULL][: len(sizes)]
    inputs = [{"name": n, "datatype": kind, "shape": [1], "parameters": {"binary_data_size": s}} for n, s in zip(names, sizes, strict=True)]
    head = json.dumps({"inputs": inputs}).encode()
    length = {"inference-header-content-length": str(len(head) + cut)}
    check("/v2", asker.ask("POST", "/v2/models/late/infer", head + tail, **length))


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE"]),
    parts=st.lists(
        st.sampled_from(
            [
                "v1",
                "v2",
                "models",
                "late",
                "lat",
                "versions",
                "1",
                "labels",
                "live",
                "infer",
                "late:predict",
                "late:x",
                "api",
                "v1.0",
                "seldon",
                "repository",
                "index",
                "load",
                "ping",
                "..",
                "",
                "%00",
                "ü",
                "invocations",
                "metadata",
                "health",
                "ready",
            ]
        ),
        max_size=6,
    ),
)
@fuzzed
def test_paths(asker: Asker, method: str, parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    reply = asker.ask(method, path, b"{}")
    assert 200 <= reply.status < 500, (method, path, reply.answer)


@given(
    method=st.sampled_from(["ModelInfer", "ModelReady", "ModelMetadata", "RepositoryIndex", "RepositoryModelLoad", "ServerMetadata"]),
    sent=st.sampled_from([GOOD, RAW]),
    places=st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=4),
)
@fuzzed
def test_grpc_messages(asker: Asker, method: str, sent: bytes, places: list[tuple[int, bytes]]) -> None:
    code, reason = asker.ask_grpc(method, scrambled(sent, places))
    assert code not in (13, 14), reason
