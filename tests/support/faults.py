"""A small project that is replayed in seconds, killing the processes that work on it, and what they leave behind."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from tidemill.core.instants import parse_instant
from tidemill.platform.root import Platform
from tidemill.platform.scaffold.project import write_project

FROM, TO, POLICIES = "2024-01-06", "2024-01-15", ("eager", "never")
_SHORTER = {
    'last="5d"': 'last="2d"',
    "num_boost_round=80": "num_boost_round=20",
    'block="1d"': 'block="1h"',
    'shadow="1d"': 'shadow="12h"',
}
MEASURED = {"run": {"wall_s"}, "step_run": {"wall_ms"}, "batch": {"wall_ms"}, "event": {"seq"}}
"""Columns of the ledger that no two replays share: durations that were measured, and the order in which events were written."""


def small_project(folder: Path, **replaced: str) -> Path:
    """What `tidemill init` writes, cut to fifteen days and a trainer of 20 trees; under `eager` five trainings end in two promotions."""
    write_project(folder)
    for path in (folder / "data").rglob("*.csv"):
        if path.stem > TO:
            path.unlink()
    definitions = folder / "definitions.py"
    text = definitions.read_text(encoding="utf-8")
    for old, new in (_SHORTER | replaced).items():
        assert old in text, old
        text = text.replace(old, new)
    definitions.write_text(text, encoding="utf-8")
    (folder / "conf" / "retraining" / "eager.yaml").write_text("triggers:\n  - kind: new_data\n    every: 2d\ntick: 1s\n")
    return folder


def command(*args: object, module: str = "tidemill.cli") -> list[str]:
    """A command line of Tidemill in a process of its own."""
    return [sys.executable, "-m", module, *map(str, args)]


def replay_command(project: Path) -> list[str]:
    """The replay that is killed."""
    return command("replay", "--project", project, "--from", FROM, "--to", TO, "--policy", ",".join(POLICIES), "--json")


def used_s(pid: int, started: float) -> float:
    """Seconds of CPU that a process has used; of the clock where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic() - started
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_for(line: Sequence[str], cpu_s: float = float("inf")) -> tuple[bool, float]:
    """Run a command and kill it (-9) once it has used `cpu_s`; say whether it was killed and how much it used."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    started, used = time.monotonic(), 0.0
    try:
        while process.poll() is None and used < cpu_s:
            time.sleep(0.01)
            used = used_s(process.pid, started) or used
    finally:
        killed = process.poll() is None
        if killed:
            os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert killed or process.returncode == 0, said.decode()
    return killed, used


def killed_at_random(project: Path, whole_s: float, seed: int, kills: int) -> int:
    """Replay, killed `kills` times at most, then to the end; return how often it was. `whole_s`: what an undisturbed one uses.

    The first kill comes well before that, because the same work takes less CPU on a quiet machine than on a busy one.
    """
    chance, left, done = random.Random(seed), whole_s, 0
    for _ in range(kills):
        killed, used = run_for(replay_command(project), chance.uniform(0.2 * whole_s, max(0.3 * whole_s, 0.65 * left)))
        if not killed:
            return done
        done += 1
        left -= max(0.0, used - 0.2 * whole_s)
    run_for(replay_command(project))
    return done


def rows(path: Path, query: str) -> list[dict[str, Any]]:
    """The rows of a query on an SQLite file."""
    with closing(sqlite3.connect(path, timeout=60)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(query)]


def end_state(project: Path, policies: tuple[str, ...] = POLICIES) -> dict[str, list[str]]:
    """Everything that a replay leaves: each policy's ledger and predictions; labels, tables and online features, which they share.

    Every row is there as often as it is stored, so what was done twice is seen. Left out is `MEASURED`, the minutes of compute in the
    replay's summary, and predictions' latencies.
    """
    home = project / ".tidemill"
    found: dict[str, list[str]] = {}
    for policy, own in zip(policies, (home, *(home / "replay" / name for name in policies[1:])), strict=True):
        for table in rows(own / "ledger.db", "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"):
            name = table["name"]
            found[f"{policy}: {name}"] = sorted(
                _text(row, MEASURED.get(name, set())) for row in rows(own / "ledger.db", f'SELECT * FROM "{name}"')
            )
        query = "SELECT p.*, c.names FROM prediction p JOIN columns c ON p.columns = c.id"
        found[f"{policy}: predictions"] = sorted(
            _text(row, {"seq", "columns", "latency_us"}) for row in rows(own / "predictions.db", query)
        )
    query = "SELECT label, key, value, event_us, known_us, writer FROM label_row"
    found["labels"] = sorted(_text(row, set()) for row in rows(home / "labels.db", query))
    return found | _shared(project)


def _shared(project: Path) -> dict[str, list[str]]:
    platform = Platform.open(project)
    try:
        found = {}
        for name in platform.definitions.tables:
            scan = platform.tables.scan(name)
            found[f"table {name}"] = sorted(map(str, ds.dataset(list(scan.paths), format="parquet").to_table().to_pylist()))
        service = platform.definitions.service()
        kitchens = sorted({row["kitchen"] for row in ds.dataset(list(platform.tables.scan("orders").paths)).to_table().to_pylist()})
        values = platform.processor.read(service.views, [{"kitchen": k} for k in kitchens], parse_instant(TO))
        return found | {"online": [f"{kitchen}: {value}" for kitchen, value in zip(kitchens, values, strict=True)]}
    finally:
        platform.close()


def _text(row: dict[str, Any], without: set[str]) -> str:
    kept = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items() if name not in without}
    if str(kept.get("name", "")).startswith("replay:"):
        summary = json.loads(kept["value"])
        kept["value"] = {**summary, "policies": [{k: v for k, v in p.items() if k != "minutes"} for p in summary["policies"]]}
    return json.dumps(kept, sort_keys=True)


def differences(wanted: dict[str, list[str]], got: dict[str, list[str]]) -> list[str]:
    """What is missing (-) and what is too much (+), a few rows of each kind."""
    out = []
    for name in sorted(wanted | got):
        want, have = wanted.get(name, []), got.get(name, [])
        if want != have:
            out.append(f"{name}: {len(want)} rows should be there, {len(have)} are")
            out += [f"  - {row[:300]}" for row in sorted(set(want) - set(have))[:2]]
            out += [f"  + {row[:300]}" for row in sorted(set(have) - set(want))[:2]]
    return out


@contextmanager
def running(line: Sequence[str], said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped at the end if it still runs; `said` takes its output."""
    with said.open("ab") as out:
        process = subprocess.Popen(line, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def eventually(check: Callable[[], bool], process: subprocess.Popen[bytes], said: Path, within_s: float = 60.0) -> None:
    """Wait until something holds, as long as the process that brings it about lives."""
    until = time.monotonic() + within_s
    while not check():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < until, said.read_text()
        time.sleep(0.01)
