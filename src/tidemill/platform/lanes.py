"""A replayed policy in a process of its own, so that policies side by side use the machine's cores.

The process runs the same `LocalLane` over the same files. Each half of a turn is written to a file of the lane's and told through a socket, so
whoever sends it goes on at once: a lane may lag days behind, while it trains for example, and reads tables as they were at its own turn. It ends
at once when the other end is gone, wherever it is: a replay that is killed takes its lanes with it, and the next one begins with the files that
are left. Run as `python -m tidemill.platform.lanes FD`.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.core.errors import ConflictError, UnavailableError
from tidemill.core.instants import DAY_US

if TYPE_CHECKING:
    from tidemill.core.definitions import Service
    from tidemill.platform.root import Platform
    from tidemill.retraining.replay import LocalLane, Turn
    from tidemill.versioning.ports import Scan, TableStore

_ASIDE = 'stack.ledger="sqlite:///${home}/ledger.db"'
"""Policies but the first have ledgers of their own, wherever the project's is."""
LAG_US = 28 * DAY_US
"""How far a lane may lag behind: far enough for a training, not so far that what goes wrong in it is told much too late."""
_THRIFTY = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_MMAP_THRESHOLD_": "131072",
}
"""Lets a lane give back what a training took, so that trainings do not add up: three lanes of a year of flights took 4 GB at their peak without."""
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
    lanes: int

    @property
    def own(self) -> Path:
        """Where the lane's own files are."""
        return Path(self.home) / "replay" / self.name


def local_lane(name: str, platform: Platform, service: Service, plan: Any, **more: Any) -> LocalLane:
    """The lane of a policy whose platform is open here."""
    from tidemill.retraining.replay import LocalLane
    from tidemill.serving import scorer_for

    scorer = scorer_for(service, plan, platform.router, platform.runtime, platform.registry, platform.blobs, platform.log)
    return LocalLane(name, platform.loop, scorer, **more)


class Turns:
    """What a lane was told and has not finished: a file for each half of a turn, in order of time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, half: str, turn: Turn) -> str:
        """Keep a half, so that it outlives whoever is killed; return its name. Told again, it is replaced."""
        name = f"{turn.until:020d}-{'ab'[half == 'settle']}-{half}"
        part = self._folder / f".{name}"
        part.write_bytes(pickle.dumps(turn, pickle.HIGHEST_PROTOCOL))
        part.replace(self._folder / name)
        return name

    def names(self) -> list[str]:
        """All that are left, in order."""
        return sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))

    def get(self, name: str) -> tuple[str, Turn]:
        """A half and its turn."""
        turn: Turn = pickle.loads((self._folder / name).read_bytes())  # noqa: S301 - written by the process that told us
        return name.rpartition("-")[2], turn

    def done(self, name: str) -> None:
        """Forget a half that is finished."""
        (self._folder / name).unlink(missing_ok=True)


class PinnedTables:
    """A table store whose tables stand at given snapshots, for one who lags behind those who publish."""

    def __init__(self, tables: TableStore) -> None:
        self._tables = tables
        self.pins: Mapping[str, int | None] = {}

    def scan(self, table: str, at: int | str | None = None) -> Scan:
        """See `TableStore`; without `at`, the pinned snapshot."""
        return self._tables.scan(table, self.pins.get(table) if at is None else at)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tables, name)


class RemoteLane:
    """A `Lane` whose work is done by another process; closing it ends the process."""

    def __init__(self, opening: Opening) -> None:
        self.name = opening.name
        self._calls, theirs = Pipe()
        self._asked: deque[int] = deque()
        self._turns = Turns(opening.own / "turns")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.platform.lanes", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__.fileno() if sys.__stderr__ is not None else None,
                pass_fds=(theirs.fileno(),),
                env={**_THRIFTY, **os.environ},
            )
        self._ask("open", asdict(opening) | {"path": tuple(sys.path)})

    def resume(self, turn: Turn) -> int:
        """See `Lane`."""
        self._ask("resume", turn)
        return int(self._answers())

    def serve(self, turn: Turn) -> None:
        """See `Lane`."""
        self._ask("take", self._turns.put("serve", turn), at_us=turn.until)

    def settle(self, turn: Turn) -> None:
        """See `Lane`."""
        self._ask("take", self._turns.put("settle", replace(turn, inputs=())), at_us=turn.until)

    def wait(self) -> None:
        """See `Lane`: what it was told is kept, so it may lag by `LAG_US`. Raises what went wrong up to now."""
        while self._asked and (self._asked[0] < self._asked[-1] - LAG_US or self._calls.poll()):
            self._answer()

    def finish(self) -> None:
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

    def _ask(self, name: str, *args: Any, at_us: int = 0) -> None:
        try:
            self._calls.send((name, args))
        except OSError as error:
            raise self._gone() from error
        self._asked.append(max(at_us, self._asked[-1] if self._asked else 0))

    def _answers(self) -> Any:
        """The last of the answers that are due. Raises what the first that failed raised."""
        value = None
        while self._asked:
            value = self._answer()
        return value

    def _answer(self) -> Any:
        try:
            good, value = self._calls.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        self._asked.popleft()
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
        self._turns: Turns | None = None
        self._tables: PinnedTables | None = None
        self._held = ExitStack()

    def open(self, opening: dict[str, Any]) -> None:
        """Open the shared platform and the policy's own; the first policy's is the shared one, with its ledger."""
        from tidemill.core.clock import ReplayClock
        from tidemill.features import apply_on_demand
        from tidemill.platform.root import Platform
        from tidemill.serving import compile_plan

        sys.path[:0] = [entry for entry in opening.pop("path") if entry not in sys.path]
        told = Opening(**opening)
        clock, home, own = ReplayClock(0), Path(told.home), told.own
        self._hold(own)
        first = Platform.open(told.project, [*told.overrides, f"retraining={told.first}"], clock=clock, home=home)
        mine, shared = first, None
        if told.name != told.first:
            mine = Platform.open(told.project, [*told.overrides, f"retraining={told.name}", _ASIDE], clock=clock, home=own, share=first)
            shared = first.ledger
        self._tables = PinnedTables(first.tables)
        mine.tables = self._tables
        mine.lanes = first.lanes = told.lanes
        service = first.definitions.service(told.service)
        plan = compile_plan(service, first.processor, apply_on_demand)
        self._lane = local_lane(told.name, mine, service, plan, clock=clock, shared=shared)
        self._turns = Turns(own / "turns")

    def _hold(self, own: Path) -> None:
        """Take the lane's lock; the lane of a replay that was just killed may still be on its way out."""
        from tidemill.platform.lock import alone

        until = time.monotonic() + PATIENCE_S
        while not self._held.enter_context(alone(own / "lane.lock")):
            if time.monotonic() > until:
                raise ConflictError(f"another replay works on {own}; wait for its end, or replay into another home with -o home=…")
            time.sleep(0.1)

    def resume(self, turn: Turn) -> int:
        """First finish what a replay that was killed had told, each half at its own time."""
        assert self._lane is not None
        assert self._turns is not None
        left = self._turns.names()
        if left:
            self._lane.resume(self._turns.get(left[0])[1])
        for name in left:
            self.take(name)
        return self._lane.resume(turn)

    def take(self, name: str) -> None:
        """Do half a turn, with the tables as they were then, and forget it."""
        assert self._lane is not None
        assert self._turns is not None
        assert self._tables is not None
        half, turn = self._turns.get(name)
        self._tables.pins = turn.pins
        getattr(self._lane, half)(turn)
        self._turns.done(name)

    def came_to(self, from_us: int, until_us: int) -> dict[str, Any]:
        """See `Lane`."""
        assert self._lane is not None
        return self._lane.came_to(from_us, until_us)


def main() -> None:
    """Serve one lane until the other end is gone."""
    calls = Connection(int(sys.argv[1]))
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        # as bytes: to make objects of them imports modules, which goes wrong beside the other thread's imports
        try:
            while True:
                waiting.put(calls.recv_bytes())
        finally:
            os._exit(1)  # in the midst of a training as well

    threading.Thread(target=listen, daemon=True).start()
    served = _Served()
    while True:
        told = waiting.get()
        try:
            name, args = pickle.loads(told)  # noqa: S301 - sent by the process that started this one
            answer: tuple[bool, Any] = (True, getattr(served, name)(*args))
        except Exception as error:  # noqa: BLE001 - the process boundary: whatever was raised is raised again on the other side
            answer = (False, error)
        try:
            calls.send(answer)
        except (pickle.PicklingError, TypeError, AttributeError):
            calls.send((False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))


if __name__ == "__main__":
    main()
