"""Several server processes on one port: the kernel shares out the connections (SO_REUSEPORT), and one process looks after the others.

Each worker is a whole server, exactly as when there is only one: it loads the models, logs its own predictions durably and drains by
itself. A worker that dies is started again; a worker whose supervisor dies stops, because its standard input ends.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from tidemill.core.errors import UnavailableError

logger = logging.getLogger(__name__)
_STEP_S, _DRAIN_S, _GIVE_UP = 0.1, 25.0, 3


def supervise(target: str, host: str, port: int, workers: int) -> None:
    """Run `workers` processes until SIGTERM or SIGINT, then let them finish their requests and return.

    Raises `UnavailableError` when workers keep ending as soon as they are started; their error output says why.
    """
    stopping = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    with TemporaryDirectory(prefix="tidemill-workers-") as folder:
        processes = [_start(target, host, port, folder, index) for index in range(workers)]
        failures = 0
        try:
            while not stopping.wait(_STEP_S):
                for index, process in enumerate(processes):
                    if process.poll() is None:
                        continue
                    served = (Path(folder) / f"{index}.{process.pid}.json").exists()
                    failures = 0 if served else failures + 1
                    if failures >= _GIVE_UP * workers:
                        raise UnavailableError(f"the model server's workers end with exit code {process.returncode} as soon as they start")
                    logger.error("worker.ended", extra={"worker": index, "code": process.returncode})
                    processes[index] = _start(target, host, port, folder, index)
        finally:
            _stop(processes)
            for number, handler in before.items():
                signal.signal(number, handler)


def _start(target: str, host: str, port: int, folder: str, index: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tidemill.serving.worker", target, host, str(port), folder, str(index)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell all to finish at once, so that none is asked for what another has left."""
    for process in processes:
        process.terminate()
    until = monotonic() + _DRAIN_S
    for process in processes:
        try:
            process.wait(max(0.1, until - monotonic()))
        except subprocess.TimeoutExpired:
            logger.error("worker.killed", extra={"pid": process.pid})
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
