"""Client libraries of the field work against the model server as they are."""

import signal
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.support.clients import ask_with
from tests.support.serving_kit import Stack, free_port, server, sigmoid

SCORE = pytest.approx(sigmoid(1))


@pytest.fixture
def running(stack: Stack) -> Iterator[tuple[str, str]]:
    """The address of a server, and a token for everything."""
    port, secret = free_port(), stack.tokens.make("client", "admin")
    with server(stack.home, port):
        yield f"127.0.0.1:{port}", secret


@pytest.mark.slow
def test_tritonclient_over_http(running: tuple[str, str], stack: Stack) -> None:
    said = ask_with("triton_http", *running)
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, True)
    assert said["server"]["name"] == "tidemill"
    assert said["model"]["inputs"][0] == {"name": "sky__wind", "datatype": "FP64", "shape": [-1]}
    assert said["index"] == [{"name": "late", "version": "1", "state": "READY", "reason": ""}]
    for how in ("json", "binary", "mixed", "gzip"):
        assert said[how] == {"score": [SCORE, SCORE], "id": [f"{how}/0", f"{how}/1"], "version": "1"}
        assert stack.log.find(f"{how}/1")[0].values == (4.0, "clear", "AA", 18.0, 8.0)
    assert said["unknown"] == ["404", "no model named 'lat'; did you mean 'late'?"]
    assert said["no token"][0] == "401"
    assert "lacks 'origin'" in said["bad"][1], said["bad"]
    assert said["bad"][0] == "400"
    assert (said["unloaded"], said["loaded"]) == (False, True)


@pytest.mark.slow
def test_tritonclient_over_grpc(stack: Stack) -> None:
    port, beside, secret = free_port(), free_port(), stack.tokens.make("client", "admin")
    with server(stack.home, port, grpc_port=beside) as process:
        said = ask_with("triton_grpc", f"127.0.0.1:{beside}", secret)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, True)
    assert said["server"] == "tidemill"
    assert said["model"] == ["late", ["1"]]
    assert said["index"] == [["late", "1", "READY"]]
    for how in ("raw", "gzip", "async"):
        assert said[how] == {"score": [SCORE, SCORE], "id": [f"{how}/0", f"{how}/1"], "version": "1"}
        assert stack.log.find(f"{how}/1")[0].values == (4.0, "clear", "AA", 18.0, 8.0)
    assert said["many"] == 200
    assert said["unknown"] == ["StatusCode.NOT_FOUND", "no model named 'lat'; did you mean 'late'?"]
    assert said["no token"][0] == "StatusCode.UNAUTHENTICATED"
    assert said["bad"][0] == "StatusCode.INVALID_ARGUMENT"
    assert (said["unloaded"], said["loaded"]) == (False, True)
    assert "Traceback" not in (stack.home / "server.log").read_text()


@pytest.mark.slow
def test_a_stop_finishes_calls_and_refuses_none_that_it_took(stack: Stack) -> None:
    port, beside, secret = free_port(), free_port(), stack.tokens.make("client", "admin")
    with server(stack.home, port, workers=2, grpc_port=beside) as process:
        stop = threading.Timer(2.0, process.send_signal, (signal.SIGTERM,))
        stop.start()
        said = ask_with("grpc_load", f"127.0.0.1:{beside}", secret)
        assert process.wait(40) == 0
    assert said["answered"] > 50
    assert said["failed"] == []
    kept = Counter(p.id for p in stack.log.read("late"))
    assert [i for i in range(said["answered"]) if kept[f"g{i}"] != 1] == []


@pytest.mark.slow
def test_mlflow_s_scoring_client(running: tuple[str, str], stack: Stack) -> None:
    said = ask_with("mlflow_scoring", *running)
    assert said["version"] == "3.0.0"
    assert (said["frame"], said["keys"], said["rows"]) == ([SCORE] * 2, [SCORE], [SCORE] * 2)
    assert "400" in said["bad"]
    assert "lacks 'origin'" in said["bad"]
    assert sorted(p.values for p in stack.log.read("late") if p.values[0] == 3.0) == [(3.0, "cloudy", "UA", 17.0, 6.0)] * 3
