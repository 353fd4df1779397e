"""The other side of `ProcessTrainer`: reads a call from standard input, answers through a pipe. Run as `python -m tidemill.training.worker FD PRIORITY`."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any, cast

from tidemill.core.priority import Priority, Share


def resolve(module: str, name: str) -> Callable[..., Any]:
    """The function at `module:name`, unwrapped if a decorator made a step of it."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    inner = getattr(found, "function", found)
    return inner if not isinstance(found, type) and callable(inner) else found  # type: ignore[no-any-return]


def main() -> None:
    """Run one call."""
    Share(cast("Priority", sys.argv[2])).begin()
    call = pickle.load(sys.stdin.buffer)  # noqa: S301
    sys.path[:0] = [entry for entry in call["path"] if entry not in sys.path]
    try:
        answer: tuple[bool, Any] = (True, resolve(call["module"], call["name"])(*pickle.loads(call["args"])))  # noqa: S301
    except BaseException as error:  # noqa: BLE001 - the process boundary: whatever was raised is raised again on the other side
        answer = (False, error)
    with os.fdopen(int(sys.argv[1]), "wb") as pipe:
        try:
            body = pickle.dumps(answer)
        except Exception as error:  # noqa: BLE001 - pickle raises whatever the object's own hooks raise
            said = f"{type(answer[1]).__name__}: {answer[1]}" if not answer[0] else f"its result cannot be sent back: {error}"
            body = pickle.dumps((False, RuntimeError(said)))
        pipe.write(body)


if __name__ == "__main__":
    main()
