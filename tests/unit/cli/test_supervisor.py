"""Children are started, restarted with growing pauses, drained, and never left behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.cli.supervisor import Supervisor, check_ports, only_one
from tidemill.core.errors import ConflictError, UnavailableError

CHILD = """
import os, signal, sys, threading
name = sys.argv[1]
def stop_with_parent():
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=stop_with_parent, daemon=True).start()
with open("pids", "a") as f: f.write(f"{name} {os.getpid()}\\n")
if name == "dies": sys.exit(3)
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
while not stopped.wait(0.05): pass
with open("pids", "a") as f: f.write(f"{name} ended\\n")
"""


def eventually(check: Callable[[], bool], within_s: float = 15.0) -> None:
    until = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "child_of_test.py").write_text(CHILD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def pids(folder: Path, name: str) -> list[str]:
    path = folder / "pids"
    return [line.split()[1] for line in path.read_text().splitlines() if line.split()[0] == name] if path.exists() else []


def test_the_dead_are_started_again_and_the_living_drain(here: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(["steady", "dies"], here, [], here / "log", say=said.append, module="child_of_test")

    def stop_when_seen() -> None:
        eventually(lambda: len(pids(here, "dies")) >= 2 and len(pids(here, "steady")) >= 1)
        supervisor.stopping.set()

    watcher = threading.Thread(target=stop_when_seen)
    watcher.start()
    code = supervisor.run()
    watcher.join()
    assert code == 0
    assert pids(here, "steady")[-1] == "ended"
    assert len(pids(here, "steady")) == 2
    assert any("dies ended with exit code 3; starting it again in 0.5 s" in text for text in said)
    assert any("in 1 s" in text for text in said) or len(pids(here, "dies")) == 2


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="there are no sessions")
def test_children_share_a_session_so_that_niceness_counts_and_not_a_group_so_that_ctrl_c_does_not(here: Path) -> None:
    supervisor = Supervisor(["steady"], here, [], here / "log", module="child_of_test")
    seen: list[tuple[int, int]] = []

    def look() -> None:
        eventually(lambda: len(pids(here, "steady")) == 1)
        child = int(pids(here, "steady")[0])
        seen.append((os.getsid(child), os.getpgid(child)))
        supervisor.stopping.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    supervisor.run()
    watcher.join()
    ((session, group),) = seen
    assert session == os.getsid(0)
    assert group != os.getpgid(0)


def test_children_end_when_the_supervisor_is_killed(here: Path) -> None:
    code = (
        "from pathlib import Path; from tidemill.cli.supervisor import Supervisor;"
        "Supervisor(['steady'], Path('.'), [], Path('log'), module='child_of_test').run()"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    eventually(lambda: len(pids(here, "steady")) == 1)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    eventually(lambda: pids(here, "steady")[-1] == "ended")


def test_ctrl_c_drains(here: Path) -> None:
    code = (
        "from pathlib import Path; from tidemill.cli.supervisor import Supervisor;"
        "raise SystemExit(Supervisor(['steady'], Path('.'), [], Path('log'), module='child_of_test').run())"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    eventually(lambda: len(pids(here, "steady")) == 1)
    os.kill(supervisor.pid, signal.SIGINT)
    assert supervisor.wait(20) == 0
    assert pids(here, "steady")[-1] == "ended"


def test_a_taken_port_is_named_with_the_option_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port} .* --serving-port"):
            check_ports({"server": ("127.0.0.1", port)})


def test_only_one_up_per_home(tmp_path: Path) -> None:
    code = f"from pathlib import Path\nfrom tidemill.cli.supervisor import only_one\nwith only_one(Path({str(tmp_path)!r})): print('mine', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(ConflictError, match="another `tidemill up`"), only_one(tmp_path):
            pass
        other.stdin.write("\n")
        other.stdin.close()
    with only_one(tmp_path):
        pass
