"""Processes that answer for one model: started when first needed, replaced when they die or take too long."""

from __future__ import annotations

import json
import os
import queue
import select
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.core.errors import RefusedError, UnavailableError

_WORKER = Path(__file__).with_name("worker.py")
_START_S = 120.0
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class _DiedError(Exception):
    """The process ended in the middle of a call."""


class Pool:
    """Calls a function in processes of its own. Thread-safe; each process answers one call at a time, further callers wait.

    Args:
        folder: where the function's module is imported from.
        target: `module:function`, called with the columns of a request by name, and with `files` if it takes two arguments.
        files: the folder with the model's files.
        python: the interpreter; it needs NumPy and what the function imports, and no Tidemill.
        processes: at most so many.
        timeout_s: a call that takes longer is given up, and its process replaced.
    """

    def __init__(self, folder: Path, target: str, files: Path, *, python: str = "", processes: int = 1, timeout_s: float = 10.0) -> None:
        self._command = [python or sys.executable, str(_WORKER), str(folder), target, str(files)]
        self._target, self._folder, self._timeout_s = target, folder, timeout_s
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._running: set[_Process] = set()
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end_all, self._running)

    def call(self, columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]], rows: int) -> npt.NDArray[np.float64]:
        """Scores (rows,) for columns by name: float64 arrays, or lists of texts and None.

        Raises:
            RefusedError: the function cannot be imported, or is none; says why.
            UnavailableError: the process died twice, or the call took too long. The next call gets a new process.
            RuntimeError: the function raised; with its words.
        """
        numbers = [name for name, values in columns.items() if isinstance(values, np.ndarray)]
        texts = {name: values for name, values in columns.items() if name not in numbers}
        header = {"rows": rows, "order": list(columns), "numbers": numbers, "texts": texts}
        body = b"".join(np.ascontiguousarray(columns[name], dtype=np.float64).tobytes() for name in numbers)
        for attempt in (1, 2):
            try:
                return self._once(header, body)
            except _DiedError as error:
                if attempt == 2:
                    raise UnavailableError(f"the process of {self._target} {error}, twice; the next call gets a new one") from error
        raise AssertionError

    def _once(self, header: Mapping[str, Any], body: bytes) -> npt.NDArray[np.float64]:
        process = self._idle.get()
        try:
            process = process if process is not None and process.alive else self._start()
            try:
                answered, scores = process.ask(header, body, monotonic() + self._timeout_s)
            except TimeoutError:
                self._stop(process)
                raise UnavailableError(
                    f"{self._target} took more than {self._timeout_s:g} s (models.timeout) and was ended; ask for fewer rows at once"
                ) from None
            except _DiedError:
                self._stop(process)
                raise
        finally:
            self._idle.put(process if process is not None and process.alive else None)
        if "error" in answered:
            raise RuntimeError(f"{self._target} failed: {answered['error']}")
        return np.frombuffer(scores)

    def _start(self) -> _Process:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            process = _Process(self._command, self._folder, {**environment, **_ONE_THREAD})
        except OSError as error:
            raise RefusedError(f"{self._command[0]} cannot be started: {error}; models.python names an interpreter") from error
        with self._lock:
            self._running.add(process)
        try:
            said, _ = process.receive(monotonic() + _START_S)
        except (_DiedError, TimeoutError) as error:
            self._stop(process)
            raise RefusedError(f"the process of {self._target} did not start: {error or 'it took too long'}") from error
        if "error" in said:
            self._stop(process)
            raise RefusedError(f"{self._target} cannot be called by {self._command[0]}: {said['error']}")
        return process

    def _stop(self, process: _Process) -> None:
        process.end()
        with self._lock:
            self._running.discard(process)

    def close(self) -> None:
        """End the processes."""
        self._end()


def _end_all(running: set[_Process]) -> None:
    for process in list(running):
        process.end()


class _Process:
    """One worker. Its standard input is its life: where it ends, so does the worker."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, env=dict(environment), bufsize=0)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._asks, self._answers = self._popen.stdin, self._popen.stdout.fileno()
        os.set_blocking(self._asks.fileno(), False)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, header: Mapping[str, Any], body: bytes, until: float) -> tuple[dict[str, Any], bytes]:
        text = json.dumps(header).encode()
        self._write(struct.pack("<I", len(text)) + text + body, until)
        return self.receive(until)

    def receive(self, until: float) -> tuple[dict[str, Any], bytes]:
        (size,) = struct.unpack("<I", self._read(4, until))
        said = json.loads(self._read(size, until))
        return said, self._read(8 * said.get("rows", 0), until)

    def end(self) -> None:
        if self.alive:
            self._popen.kill()
        self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                stream.close()

    def _write(self, message: bytes, until: float) -> None:
        left = memoryview(message)
        while left:
            _wait(self._asks.fileno(), select.POLLOUT, until)
            try:
                left = left[os.write(self._asks.fileno(), left[: 1 << 16]) :]
            except (BrokenPipeError, ConnectionResetError) as error:
                raise self._died() from error
            except BlockingIOError:
                continue

    def _read(self, size: int, until: float) -> bytes:
        pieces: list[bytes] = []
        while size:
            _wait(self._answers, select.POLLIN, until)
            piece = os.read(self._answers, min(size, 1 << 20))
            if not piece:
                raise self._died()
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _died(self) -> _DiedError:
        code = self._popen.wait()
        return _DiedError(f"was ended by signal {-code}" if code < 0 else f"ended with code {code}")


def _wait(file: int, event: int, until: float) -> None:
    """Until the file is ready; not `select`, which knows no file above 1023. Raises `TimeoutError`."""
    poll = select.poll()
    poll.register(file, event)
    if not poll.poll(max(0.0, until - monotonic()) * 1000):
        raise TimeoutError
