"""Servers of the benchmarks: started on free ports of the loopback, ended with the block, asked with wrk."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LUA = """
local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
local bodies, turn = {}, 0
for line in file:lines() do bodies[#bodies + 1] = line end
file:close()
wrk.method, wrk.body = "POST", bodies[1]
wrk.headers["Content-Type"] = "application/json"
if os.getenv("BENCH_TOKEN") then wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN") end
if #bodies > 1 then
  local ready = {}
  function init() for i, body in ipairs(bodies) do ready[i] = wrk.format(nil, nil, nil, body) end end
  function request()
    turn = turn % #ready + 1
    return ready[turn]
  end
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests a second, and the time that 99 of 100 answers took at most."""

    rate: float
    p99_ms: float


def need(*tools: str) -> None:
    """End the program unless these are installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is needed: apt-get install {'redis-server' if tool.startswith('redis') else tool}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], port: int, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; wait until it listens. Gives its process."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**env, "OMP_NUM_THREADS": "1", **environment}, stdout=out, stderr=out)
    try:
        _wait(process, port, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"no server on {port}: {log.read_text()[-2000:]}")


@contextmanager
def redis(folder: Path, *, durable: bool = False) -> Iterator[int]:
    """A Redis server of our own; gives its port. `durable`: an append-only file, synced every second."""
    need("redis-server")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with started([*command, "--appendonly", "yes" if durable else "no"], port, folder / "redis.log"):
        yield port


@contextmanager
def kafka(folder: Path) -> Iterator[str]:
    """A Kafka broker of our own, from the jars that the tests use; gives host and port, or nothing where there are none."""
    root = Path(__file__).resolve().parents[1]
    if shutil.which("java") is None or not list((root / ".kafka").glob("kafka_2*.jar")):
        yield ""
        return
    sys.path.insert(0, str(root))
    from tests.support.kafka_server import kafka_broker

    with kafka_broker(folder) as broker:
        yield broker.hosts


def ask(url: str, body: Path, *, connections: int, seconds: float, token: str = "", headers: Mapping[str, str] | None = None) -> Load:
    """Post `body` (its lines in turns, when there are several) over and over for `seconds`. Raises `RuntimeError` for any answer that is an error."""
    script = body.parent / "post.lua"
    script.write_text(_LUA)
    env = {**os.environ, "BENCH_BODY": str(body)}
    if token:
        env["BENCH_TOKEN"] = token
    more = [item for name, value in (headers or {}).items() for item in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", *more, "-s", str(script), url]
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", out)
    if found is None or int(found[4]):
        raise RuntimeError(f"{url} at {connections} connections: {out}")
    return Load(int(found[1]) / (int(found[2]) / 1e6), int(found[3]) / 1e3)
