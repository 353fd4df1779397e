"""Running Locust in a process of its own, and reading what it measured."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill.core.errors import ConfigError, InvalidError, UnavailableError
from tidemill.core.instants import SECOND_US, parse_duration

_GRACE_S = 60
_ALL = "Aggregated"
_PERCENTILES = {"p50": "50%", "p95": "95%", "p99": "99%", "p999": "99.9%", "max": "100%"}


def run(
    file: Path, host: str, *, users: int, time: str, rate: float = 0.0, python: str = "", token: str = "", ca: str = ""
) -> dict[str, Any]:
    """Run a Locust file without its web page; return what it measured, in milliseconds and calls a second.

    Args:
        file: the Locust file; results are written beside it.
        host: the model server's address.
        users: callers at the same time.
        time: how long (`"30s"`).
        rate: calls a second of all together, 0 for as many as they can.
        python: the interpreter that has Locust; this one by default.
        token: of the model server.
        ca: PEM file of the authorities whose certificate the server may have, instead of the system's.

    Raises:
        ConfigError: the interpreter has no Locust.
        UnavailableError: Locust ended without a measurement; says what it said.
    """
    seconds = parse_duration(time) // SECOND_US
    if seconds < 1:
        raise InvalidError(f"a load test takes at least a second, not {time}")
    interpreter, out = python or sys.executable, file.parent / "result"
    environment = {**os.environ, "TIDEMILL_TOKEN": token, "LOADTEST_RATE": str(rate or ""), **({"SSL_CERT_FILE": ca} if ca else {})}
    version = _version(interpreter)
    command = [
        interpreter,
        "-m",
        "locust",
        "-f",
        str(file),
        "--headless",
        "--host",
        host,
        "--users",
        str(users),
        "--spawn-rate",
        str(users),
    ]
    command += ["--run-time", f"{seconds}s", "--csv", str(out), "--csv-full-history", "--only-summary", "--skip-log-setup"]
    for old in file.parent.glob("result_*.csv"):
        old.unlink()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"Locust did not end {_GRACE_S} s after its time was over") from error
    stats = out.with_name("result_stats.csv")
    if not stats.is_file():
        raise UnavailableError(f"Locust measured nothing (exit code {done.returncode}): {done.stderr.strip()[-400:]}")
    return {"tool": version, "users": users, "seconds": seconds, "asked_rate": rate or None, **_read(out)}


def _version(interpreter: str) -> str:
    try:
        done = subprocess.run([interpreter, "-m", "locust", "--version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        raise ConfigError(f"--python {interpreter!r} cannot be started: {error}") from error
    if done.returncode:
        raise ConfigError(f"{interpreter} has no Locust: pip install 'tidemill[locust]', or name one that has it with --python")
    return " ".join(done.stdout.split()[:2])


def _read(out: Path) -> dict[str, Any]:
    whole = next((row for row in _rows(out, "stats") if row["Name"] == _ALL), None)
    if whole is None or not int(whole["Request Count"]):
        raise UnavailableError("Locust made no call; is the model server's address right?")
    history = [row for row in _rows(out, "stats_history") if row["Name"] == _ALL]
    start = int(history[0]["Timestamp"]) if history else 0
    return {
        "requests": int(whole["Request Count"]),
        "failures": int(whole["Failure Count"]),
        "rate": _number(whole["Requests/s"]),
        "latency_ms": {name: _number(whole[column]) for name, column in _PERCENTILES.items()},
        "history": [
            [int(r["Timestamp"]) - start, int(r["User Count"]), *(_number(r[c]) for c in ("Requests/s", "Failures/s", "50%", "95%", "99%"))]
            for r in history
        ],
        "errors": [{"error": r["Error"], "n": int(r["Occurrences"])} for r in _rows(out, "failures")][:10],
    }


def _rows(out: Path, kind: str) -> list[Mapping[str, str]]:
    path = out.with_name(f"result_{kind}.csv")
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _number(text: str) -> float | None:
    return None if text in ("", "N/A") else float(text)
