"""A store that is killed at any step and started again ends where an undisturbed one does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = """
import json, os, signal, sys
from pathlib import Path
import pyarrow as pa, pyarrow.dataset as ds
from tidemill.core.clock import ReplayClock
from tidemill.core.instants import DAY_US
from tidemill.versioning.embedded import IcebergTableStore, disk
from tidemill.versioning.embedded.catalog import LocalCatalog

root, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
steps, fatal = 0, -1

def step():
    global steps
    steps += 1
    if steps == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

def around(owner, name, static=False):
    inner = getattr(owner, name)
    def outer(*args, **kwargs):
        step()
        result = inner(*args, **kwargs)
        step()
        return result
    setattr(owner, name, staticmethod(outer) if static else outer)

def work(home):
    clock = ReplayClock(0)
    store = IcebergTableStore(home / "lake", f"sqlite:///{home}/catalog.db", clock)
    store.create("t", pa.schema([("id", pa.int64())]))
    for i in range(4):
        clock.advance_to((i + 1) * DAY_US)
        store.append("t", pa.table({"id": [i]}), batch=f"b{i}", branch=f"audit-{i}")
        if i != 1:
            store.publish("t", f"audit-{i}")
        if i == 2:
            store.maintain("t", now_us=clock.now_us() + 1, keep_us=0)
    store.publish("t", "audit-1")
    store.maintain("t", now_us=clock.now_us() + 2, keep_us=0)

def alone(function, *args):
    # in a process of its own: its exit, and what it wrote to the pipe
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        function(*args)
        os.write(writing, json.dumps(steps).encode())
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 100)
    os.close(reading)
    return os.waitpid(child, 0)[1], json.loads(told or b"0")

def state(home):
    store = IcebergTableStore(home / "lake", f"sqlite:///{home}/catalog.db", ReplayClock(0))
    scan = store.scan("t")
    needed = {path for s in store.snapshots("t") for path in store.scan("t", s.id).paths}
    return {
        "rows": ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table().column("id").to_pylist(),
        "leaked": sorted(p.name for p in (home / "lake").resolve().rglob("*.parquet") if str(p) not in needed),
        "garbage": [p.name for p in (home / "lake" / "t" / "metadata").glob("garbage*")],
    }

for owner, name, static in [(disk, "write", 0), (disk, "sync", 0), (disk, "written", 0), (LocalCatalog, "commit_table", 0),
                            (LocalCatalog, "_write_metadata", 1), (Path, "unlink", 0)]:
    around(owner, name, bool(static))
(root / "whole").mkdir()
_, total = alone(work, root / "whole")
out = {"total": total, "whole": state(root / "whole"), "killed": {}}
for at in wanted or range(1, total + 1):
    home = root / f"killed-{at}"
    home.mkdir()
    fatal = at
    code, _ = alone(work, home)
    fatal = -1
    again, _ = alone(work, home)
    out["killed"][at] = {"signal": code, "again": again, **state(home)}
print(json.dumps(out))
"""


def _drive(root: Path, steps: list[int]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", DRIVER, str(root), json.dumps(steps)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _check(found: dict[str, Any]) -> None:
    assert found["whole"]["rows"] == [0, 2, 3, 1]
    assert found["whole"]["leaked"] == found["whole"]["garbage"] == []
    for at, killed in found["killed"].items():
        assert (killed["signal"], killed["again"]) == (9, 0), f"killed at step {at}"
        for what in ("rows", "leaked", "garbage"):
            assert killed[what] == found["whole"][what], f"{what} after a kill at step {at}"


def test_killed_at_some_steps(tmp_path: Path) -> None:
    _check(_drive(tmp_path, [7, 24, 45, 70, 95]))


@pytest.mark.slow
def test_killed_at_every_step(tmp_path: Path) -> None:
    found = _drive(tmp_path, [])
    assert len(found["killed"]) == found["total"] > 80
    _check(found)
