"""A replayed policy in a process of its own, so that policies side by side use the machine's cores.

The process runs the same `LocalLane` over the same files. It is told each half of a turn through a socket and ends at once when the other end
is gone, wherever it is: a replay that is killed takes its lanes with it. Run as `python -m tidemill.platform.lanes FD`.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.core.errors import ConflictError, UnavailableError

if TYPE_CHECKING:
    from tidemill.core.definitions import Service
    from tidemill.platform.root import Platform
    from tidemill.retraining.replay import LocalLane, Turn

_ASIDE = 'stack.ledger="sqlite:///${home}/ledger.db"'
"""Policies but the first have ledgers of their own, wherever the project's is."""
PATIENCE_S = 30.0
"""How long to wait for the lane of a replay that was just killed to be gone."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a lane's process has to know: the project, whose data it shares (the `first` policy's, in `home`), and its own policy."""

    project: str
    overrides: tuple[str, ...]
    service: str
    home: str
    first: str
    name: str


def local_lane(name: str, platform: Platform, service: Service, plan: Any, **more: Any) -> LocalLane:
    """The lane of a policy whose platform is open here."""
    from tidemill.retraining.replay import LocalLane
    from tidemill.serving import Scorer

    scorer = Scorer(service, plan, platform.router, platform.runtime, platform.registry, platform.blobs, platform.log)
    return LocalLane(name, platform.loop, scorer, **more)


class RemoteLane:
    """A `Lane` whose work is done by another process; closing it ends the process."""

    def __init__(self, opening: Opening) -> None:
        self.name = opening.name
        self._calls, theirs = Pipe()
        self._asked = 0
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.platform.lanes", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__.fileno() if sys.__stderr__ is not None else None,
                pass_fds=(theirs.fileno(),),
            )
        self._ask("open", asdict(opening) | {"path": tuple(sys.path)})

    def resume(self, turn: Turn) -> int:
        """See `Lane`."""
        self._ask("resume", turn)
        return int(self._answers())

    def serve(self, turn: Turn) -> None:
        """See `Lane`."""
        self._ask("serve", turn)

    def settle(self, turn: Turn) -> None:
        """See `Lane`."""
        self._ask("settle", replace(turn, inputs=()))

    def wait(self) -> None:
        """See `Lane`."""
        self._answers()

    def came_to(self, from_us: int, until_us: int) -> dict[str, Any]:
        """See `Lane`."""
        self._ask("came_to", from_us, until_us)
        found: dict[str, Any] = self._answers()
        return found

    def close(self) -> None:
        """End the process, whatever it is at; what it had not finished is done by the next replay."""
        self._calls.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, name: str, *args: Any) -> None:
        try:
            self._calls.send((name, args))
        except OSError as error:
            raise self._gone() from error
        self._asked += 1

    def _answers(self) -> Any:
        """The last of the answers that are due. Raises what the first that failed raised."""
        value = None
        while self._asked:
            try:
                good, value = self._calls.recv()
            except (EOFError, OSError) as error:
                raise self._gone() from error
            self._asked -= 1
            if not good:
                raise value
        return value

    def _gone(self) -> UnavailableError:
        self._process.kill()
        return UnavailableError(
            f"the process of policy {self.name!r} ended with {self._process.wait()}; it was killed or ran out of memory. "
            "Replay again with the same times: it goes on behind its last whole day"
        )


class _Served:
    """The lane on its own side."""

    def __init__(self) -> None:
        self._lane: LocalLane | None = None
        self._held = ExitStack()

    def open(self, opening: dict[str, Any]) -> None:
        """Open the shared platform and the policy's own, as `platform.replays` does for the first policy."""
        from tidemill.core.clock import ReplayClock
        from tidemill.features import apply_on_demand
        from tidemill.platform.root import Platform
        from tidemill.serving import compile_plan

        sys.path[:0] = [entry for entry in opening.pop("path") if entry not in sys.path]
        told = Opening(**opening)
        clock, home = ReplayClock(0), Path(told.home)
        own = home / "replay" / told.name
        self._hold(own)
        first = Platform.open(told.project, [*told.overrides, f"retraining={told.first}"], clock=clock, home=home)
        mine = Platform.open(told.project, [*told.overrides, f"retraining={told.name}", _ASIDE], clock=clock, home=own, share=first)
        service = first.definitions.service(told.service)
        plan = compile_plan(service, first.processor, apply_on_demand)
        self._lane = local_lane(told.name, mine, service, plan, clock=clock, shared=first.ledger)

    def _hold(self, own: Path) -> None:
        """Take the lane's lock; the lane of a replay that was just killed may still be on its way out."""
        from tidemill.platform.lock import alone

        until = time.monotonic() + PATIENCE_S
        while not self._held.enter_context(alone(own / "lane.lock")):
            if time.monotonic() > until:
                raise ConflictError(f"another replay works on {own}; wait for its end, or replay into another home with -o home=…")
            time.sleep(0.1)

    def call(self, name: str, args: Sequence[Any]) -> Any:
        """Do what was asked."""
        return self.open(*args) if self._lane is None else getattr(self._lane, name)(*args)


def main() -> None:
    """Serve one lane until the other end is gone."""
    calls = Connection(int(sys.argv[1]))
    waiting: queue.SimpleQueue[tuple[str, Sequence[Any]]] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                waiting.put(calls.recv())
        except (EOFError, OSError):
            os._exit(1)  # in the midst of a training as well

    threading.Thread(target=listen, daemon=True).start()
    served = _Served()
    while True:
        name, args = waiting.get()
        try:
            answer: tuple[bool, Any] = (True, served.call(name, args))
        except Exception as error:  # noqa: BLE001 - the process boundary: whatever was raised is raised again on the other side
            answer = (False, error)
        try:
            calls.send(answer)
        except (pickle.PicklingError, TypeError, AttributeError):
            calls.send((False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))


if __name__ == "__main__":
    main()
