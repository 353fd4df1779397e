"""One of several server processes, as `tidemill.serving.workers` starts them: `target host port folder index`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tidemill.serving.board import Board
from tidemill.serving.run import load, serve


def _end_with_supervisor() -> None:
    while os.read(0, 64):  # not sys.stdin, whose lock a thread that waits would hold when Python ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM, or until the supervisor is gone."""
    target, host, port, folder, index = arguments
    app = load(target)
    app.share(Board(Path(folder), index))
    threading.Thread(target=_end_with_supervisor, name="tidemill-supervisor", daemon=True).start()
    serve(app, host=host, port=int(port), target=target)


if __name__ == "__main__":
    main(sys.argv[1:])
