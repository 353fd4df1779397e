"""The processes that `tidemill up` keeps alive: `python -m tidemill.cli.processes api|server|reconciler|trainer|follower --project …`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidemill.cli.exits import code_of, explain
from tidemill.cli.logs import write_logs
from tidemill.cli.options import opened, project_options
from tidemill.core.instants import DAY_US, SECOND_US, parse_duration

if TYPE_CHECKING:
    from tidemill.platform.root import Platform

TURN = "reconciler-turn"
LOOK_S = 1.0
"""How often the trainer looks for a cause whose run is to be made."""
GRACE_S = 5.0
"""How long a turn of the loop, or of a stream, may go on after a stop."""
logger = logging.getLogger("tidemill.up")


_NAMES = ("api", "server", "reconciler", "trainer", "follower")


@click.command()
@click.argument("name", type=click.Choice(list(_NAMES)))
@project_options
@click.option("--supervised", is_flag=True, help="Stop when standard input ends; begin no new ledger.")
def process(name: str, project: Path, overrides: Sequence[str], supervised: bool) -> None:
    """Run one of the processes until it is told to stop."""
    from tidemill.ledger.opening import BEGUN
    from tidemill.platform.config import load_config
    from tidemill.platform.project import find_project

    write_logs(load_config(find_project(project), overrides))
    if supervised:
        os.environ[BEGUN] = "1"  # by the supervisor: a new one in its place would tell model servers that nothing is live
        threading.Thread(target=_stop_with_parent, daemon=True).start()
    _PROCESSES[name](project, overrides)


def _stop_with_parent() -> None:
    """The supervisor holds the other end of standard input; when it is gone, so are we.

    Read from the descriptor: a thread inside `sys.stdin` would abort the interpreter when it ends for another reason.
    """
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def api(project: Path, overrides: Sequence[str]) -> None:
    """Console and HTTP API."""
    from tidemill.cli.web import serve_api

    serve_api(project, overrides)


def server(project: Path, overrides: Sequence[str]) -> None:
    """The model server."""
    from tidemill.cli.web import serve_models

    serve_models(project, overrides)


def reconciler(project: Path, overrides: Sequence[str]) -> None:
    """The loop in the present, but for the trainings: what is due is recorded and left to the trainer, so rollouts never wait for one."""
    from dataclasses import replace

    from tidemill.retraining import loop

    _yield_to_serving(5)
    stop = _stop()
    with opened(project, overrides) as platform:
        pause_s = parse_duration(platform.config.retraining.tick) / SECOND_US
        apart = replace(platform.loop, launch=loop.leave)
        while not stop.is_set():
            now = platform.clock.now_us()
            loop.tick(apart, _last_turn(platform, now))
            _remember_turn(platform, now)
            stop.wait(pause_s)


def trainer(project: Path, overrides: Sequence[str]) -> None:
    """Makes the runs that the reconciler recorded a cause for, one after the other.

    A stop ends it at once, wherever it is: the run stays open in the ledger, and the next trainer goes on behind its finished steps.
    """
    from tidemill.retraining import loop
    from tidemill.training import Share

    with opened(project, overrides) as platform:
        share = Share(platform.config.training.priority)
        share.begin()
        while True:
            loop.train_open(platform.loop)
            share.ended()
            time.sleep(LOOK_S)


def follower(project: Path, overrides: Sequence[str]) -> None:
    """Takes events of streams into the online state as they come."""
    from tidemill.cli import streams

    _yield_to_serving(5)
    stop = _stop()
    with opened(project, overrides) as platform:
        streams.run(platform, stop)


def _stop() -> threading.Event:
    """Set by SIGTERM. Who goes on for longer than `GRACE_S` then is ended wherever it is, which loses and repeats nothing: it may be killed as well."""
    stop = threading.Event()

    def told(*_: object) -> None:
        stop.set()
        late = threading.Timer(GRACE_S, os._exit, (0,))
        late.daemon = True
        late.start()

    signal.signal(signal.SIGTERM, told)
    return stop


def _yield_to_serving(by: int) -> None:
    if hasattr(os, "nice"):
        os.nice(by)


def _last_turn(platform: Platform, now: int) -> int:
    """When the last whole turn began, so that what a killed process missed is looked at again."""
    from tidemill.api.queries import state

    with platform.ledger.read() as db:
        found = state.find(db, TURN)
    return int(found["at_us"]) if found else now - DAY_US


def _remember_turn(platform: Platform, now: int) -> None:
    from tidemill.ledger import schema
    from tidemill.ledger.store import to_json, upsert

    with platform.ledger.write(durable=False) as db:
        upsert(db, schema.state, {"name": TURN, "value": to_json({"at_us": now}), "at_us": now})


_PROCESSES: dict[str, Callable[[Path, Sequence[str]], None]] = {
    "api": api,
    "server": server,
    "reconciler": reconciler,
    "trainer": trainer,
    "follower": follower,
}


def main() -> None:
    """Run a process; an error is one line in its log and the documented exit code."""
    try:
        process.main(standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - the process ends here; the supervisor reads the code
        logger.exception("process.failed") if code_of(error) == 1 else logger.error("process.failed: %s", explain(error))
        sys.exit(code_of(error))


if __name__ == "__main__":
    main()
