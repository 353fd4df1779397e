"""What only Linux has is not needed: a Python without it does the same."""

import subprocess
import sys
from pathlib import Path

WITHOUT = """
import os, sys
for name in ("fdatasync", "RWF_DSYNC", "memfd_create", "sched_getaffinity", "sched_setscheduler", "SCHED_IDLE"):
    if hasattr(os, name):
        delattr(os, name)
"""
BUSY = """
import threading
from itertools import count
from pathlib import Path
from tidemill.serving.embedded.journal import Journal, frames, segments

died = []
threading.excepthook = died.append
folder = Path(sys.argv[1])
journal = Journal(folder, busy_bytes=1)
numbers = count()
while len([path for path in segments(folder) if path.read_bytes()[:1] not in (b"", b"\\0")]) < 2:
    journal.append([b"%d" % next(numbers)])
    assert not died, died
journal.close()
print([int(body) for path in segments(folder) for body, _ in frames(path, 0)] == list(range(next(numbers))))
"""
HANDED_OVER = """
from tidemill.core.machine import processors
from tidemill.serving.ring import Ring

ring = Ring.made(1 << 16, 100)
print(ring.put(b"row", 1) and ring.waiting == 1 and processors() > 0)
"""


def said(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_busy_writer_of_the_log_moves_on_to_a_segment_of_zeros(tmp_path: Path) -> None:
    assert said(BUSY, tmp_path) == "True"


def test_answers_are_handed_over_to_shadows() -> None:
    assert said(HANDED_OVER) == "True"
