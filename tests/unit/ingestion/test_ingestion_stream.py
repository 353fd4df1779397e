"""The durable log under kill -9, torn frames and several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.ingestion.embedded import LogStream

_WRITER = """
import sys
from pathlib import Path
from tidemill.ingestion.embedded import LogStream
stream, n = LogStream(Path(sys.argv[1])), 0
while True:
    end = stream.append("t", [b"%s:%d:%d" % (sys.argv[2].encode(), n, part) for part in range(3)])
    n += 1
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9_and_appends_stay_whole(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    deadline = time.monotonic() + 30
    while LogStream(tmp_path).append("t", []) < 150 and time.monotonic() < deadline:
        time.sleep(0.02)
    acknowledged = {}
    for name, writer in zip("ab", writers, strict=True):
        os.kill(writer.pid, signal.SIGKILL)
        out, _ = writer.communicate()
        acknowledged[name] = len(out.splitlines())
    bodies = [record.body.decode().split(":") for record in LogStream(tmp_path).read("t", 0)]
    assert len(bodies) >= 150
    for name in "ab":
        mine = [(int(n), int(part)) for who, n, part in bodies if who == name]
        assert mine == [(n, part) for n in range(len(mine) // 3) for part in range(3)]
        assert len(mine) // 3 in (acknowledged[name], acknowledged[name] + 1)  # the last one may not have got to say so


@pytest.mark.parametrize("cut", [1, 7, 8, 12, 20])
def test_a_frame_cut_short_never_was(tmp_path: Path, cut: int) -> None:
    stream, path = LogStream(tmp_path), tmp_path / "t.log"
    stream.append("t", [b"first"])
    whole = path.stat().st_size
    stream.append("t", [b"second", b"third"])
    os.truncate(path, whole + cut)
    again = LogStream(tmp_path)
    assert [r.body for r in again.read("t", 0)] == [b"first"]
    assert again.append("t", [b"other"]) == 2
    assert [r.body for r in LogStream(tmp_path).read("t", 0)] == [b"first", b"other"]


def test_a_damaged_last_frame_never_was(tmp_path: Path) -> None:
    stream, path = LogStream(tmp_path), tmp_path / "t.log"
    stream.append("t", [b"first"])
    stream.append("t", [b"second"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert [r.body for r in LogStream(tmp_path).read("t", 0)] == [b"first"]


def test_topics_and_offsets_are_checked(tmp_path: Path) -> None:
    stream = LogStream(tmp_path)
    for topic in ("", "../up", "A", "x" * 200):
        with pytest.raises(InvalidError, match="cannot name a topic"):
            stream.append(topic, [b"x"])
    with pytest.raises(InvalidError, match="offsets start at 0"):
        stream.read("t", -1)


def test_a_disk_that_refuses_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = LogStream(tmp_path)
    stream.append("t", [b"first"])
    real = os.pwrite

    def half(descriptor: int, data: bytes, at: int) -> int:
        real(descriptor, data[: len(data) // 2], at)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(UnavailableError, match="No space left"):
            stream.append("t", [b"second"])
    assert [r.body for r in stream.read("t", 0)] == [b"first"]
    assert stream.append("t", [b"third"]) == 2
    assert [r.body for r in LogStream(tmp_path).read("t", 0)] == [b"first", b"third"]


def test_an_append_is_on_disk_before_it_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = LogStream(tmp_path)
    stream.append("t", [b"first"])
    synced, real = [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    stream.append("t", [b"second"])
    assert synced == [(tmp_path / "t.log").stat().st_size]
    stream.append("t", [])
    assert len(synced) == 1  # nothing new to wait for


def test_nothing_behind_a_damaged_frame_comes_back(tmp_path: Path) -> None:
    stream, path = LogStream(tmp_path), tmp_path / "t.log"
    stream.append("t", [b"first"])
    start = path.stat().st_size
    for body in (b"alpha", b"bravo"):
        stream.append("t", [body])
    data = bytearray(path.read_bytes())
    data[start + 12] ^= 1
    path.write_bytes(data)
    again = LogStream(tmp_path)
    assert again.append("t", [b"delta"]) == 2
    assert [r.body for r in LogStream(tmp_path).read("t", 0)] == [b"first", b"delta"]
