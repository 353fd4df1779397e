"""kill -9 at any point of a run: the next attempt uses every finished step, and the ledger ends as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from tidemill.ledger import schema
from tidemill.ledger.store import Ledger

SCRIPT = Path(__file__).with_name("project_that_is_killed.py")
MEASURED = {"wall_s", "wall_ms", "seq"}


def start(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, cwd=folder)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def state(folder: Path) -> dict[str, list[tuple[str, ...]]]:
    """All rows that do not hold measured durations."""
    out = {}
    with Ledger(f"sqlite:///{folder}/ledger.db").read() as db:
        for table in (
            schema.run,
            schema.step_run,
            schema.step_cache,
            schema.param,
            schema.metric,
            schema.artifact,
            schema.lineage,
            schema.event,
        ):
            columns = [column for column in table.c if column.name not in MEASURED]
            out[table.name] = sorted((tuple(str(v) for v in row) for row in db.execute(sa.select(*columns))), key=repr)
    return out


def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    rng = random.Random(3)
    folders = [tmp_path / "whole", tmp_path / "broken"]
    for folder in folders:
        folder.mkdir()
    assert start(folders[0]).wait(60) == 0
    kills = 0
    for _ in range(30):
        process = start(folders[1])
        time.sleep(rng.uniform(0.02, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait(60) == 0:
            break
        if kills == 3:
            assert start(folders[1]).wait(60) == 0
            break
    calls = (folders[1] / "book").read_text().split()
    assert set(calls) == {str(n) for n in range(12)}
    assert len(calls) <= 12 + kills  # a kill costs at most the step that was running
    assert state(folders[1]) == state(folders[0])
