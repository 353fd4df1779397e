"""Training in processes of its own on this machine."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.core.priority import Priority


class ProcessTrainer:
    """A `Trainer` that starts one Python process a call, with a priority below this one's unless that is `normal`."""

    def __init__(self, priority: Priority = "idle") -> None:
        self._priority: Priority = priority

    def run(self, function: Callable[..., Any], args: Sequence[Any], *, cpus: float = 1.0, timeout_s: float | None = None) -> Any:
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
        inner = getattr(function, "function", None)
        if inner is not None and module is not None and not name:
            module, name = inner.__module__, inner.__qualname__
        if not module or module == "__main__" or "<" in name:
            raise InvalidError(f"{name or function!r} cannot run in another process: define it at the top of a module that can be imported")
        call = pickle.dumps({"path": sys.path, "module": module, "name": name, "args": pickle.dumps(tuple(args))})
        threads = str(max(1, math.ceil(cpus)))
        env = {
            "OMP_WAIT_POLICY": "passive",
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "ARROW_NUM_THREADS": threads,
        }
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as answers:
            process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.training.worker", str(writing), self._priority],
                stdin=subprocess.PIPE,
                stdout=sys.stderr.fileno() if _real(sys.stderr) else None,
                env=env,
                pass_fds=(writing,),
            )
            os.close(writing)
            body = _talk(process, call, answers, timeout_s)
        if not body:
            raise UnavailableError(
                f"the worker of {module}.{name} ended with {process.returncode} and no answer"
                + (f" (stopped after {timeout_s} s)" if timeout_s is not None and process.returncode == -9 else "")
                + "; it was killed or ran out of memory. Trying again is safe"
            )
        good, value = pickle.loads(body)  # noqa: S301
        if good:
            return value
        raise value


def _talk(process: subprocess.Popen[bytes], call: bytes, answers: Any, timeout_s: float | None) -> bytes:
    """Send the call, read the answer to its end, see the process off."""
    timer = threading.Timer(timeout_s, process.kill) if timeout_s is not None else None
    if timer:
        timer.start()
    try:
        assert process.stdin is not None
        try:
            with process.stdin as sink:
                sink.write(call)
        except BrokenPipeError:
            pass  # it died while it was being told; the empty answer says so
        body: bytes = answers.read()
        process.wait()
        return body
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        if timer:
            timer.cancel()


def _real(stream: Any) -> bool:
    """Whether a stream has a file descriptor (a captured one has none)."""
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True
