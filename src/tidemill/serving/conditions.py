"""What a server has to do without at the moment, by cause: one value that health, metrics, log and console show.

Who finds out that something is gone says so here, and says so again when it is back; whoever asks is told since when, what that means for
answers, and the last error. A server that is merely new (no model yet) is not degraded: nobody could close such a condition.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence

from tidemill.core.clock import Clock
from tidemill.core.conditions import CAUSES, Cause, Condition, merged
from tidemill.core.definitions import Service
from tidemill.core.instants import SECOND_US

logger = logging.getLogger(__name__)


class Conditions:
    """The conditions of one server process. Thread-safe; while all is well, saying so is one look into an empty dictionary."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[tuple[str, Cause], Condition] = {}

    def state(self, service: str, cause: Cause, reason: str, means: str = "") -> None:
        """Say why something is gone, or, with an empty reason, that it is there. Logged when it changes, not when it is said again."""
        key = (service, cause)
        if not reason and key not in self._open:
            return
        with self._lock:
            before = self._open.get(key)
            if reason:
                since = self._clock.now_us() if before is None else before.since_us
                self._open[key] = Condition(service, cause, since, means, reason)
            elif before is not None:
                del self._open[key]
        if reason and before is None:
            logger.error("serving.degraded", extra={"service": service, "cause": cause, "reason": reason, "means": means})
        elif not reason and before is not None:
            seconds = (self._clock.now_us() - before.since_us) / SECOND_US
            logger.warning("serving.recovered", extra={"service": service, "cause": cause, "seconds": round(seconds, 3)})

    def state_all(self, services: Iterable[str], cause: Cause, reason: str, means: str) -> None:
        """Say it of several services."""
        for service in services:
            self.state(service, cause, reason, means)

    def has(self, cause: Cause) -> bool:
        """Whether a service is without it."""
        return any(key[1] == cause for key in list(self._open))

    def current(self) -> list[Condition]:
        """All, by service and cause."""
        return merged(self._open.copy().values())


def exposition(services: Iterable[str], conditions: Sequence[Condition], now_us: int) -> Iterator[str]:
    """Prometheus lines: 0 or 1 for each service and cause, and for how long."""
    since = {(c.service, c.cause): c.since_us for c in conditions}
    keys = [(service, cause) for service in services for cause in CAUSES]
    yield "# HELP tidemill_degraded whether a service has to do without something, by cause"
    yield "# TYPE tidemill_degraded gauge"
    yield from (f'tidemill_degraded{{service="{s}",cause="{c}"}} {int((s, c) in since)}' for s, c in keys)
    yield "# HELP tidemill_degraded_seconds for how long it has had to, 0 while it has everything"
    yield "# TYPE tidemill_degraded_seconds gauge"
    for s, c in keys:
        seconds = max(0, now_us - since[s, c]) / SECOND_US if (s, c) in since else 0.0
        yield f'tidemill_degraded_seconds{{service="{s}",cause="{c}"}} {seconds!r}'


def without_ledger(version: int | None) -> str:
    """What it means that the ledger is gone, for a service whose live version this is."""
    if version is None:
        return "nothing answers until the ledger is back: which version is live stands in it"
    return (
        f"answers go on with version {version}; new versions are not noticed, tokens that were not read before get 503, one that is revoked meanwhile is accepted, "
        "what a rollout counts is kept until the ledger is back"
    )


def without_features(service: Service) -> str:
    """What it means that the online store is gone, as the service declares it."""
    if service.degraded == "fail":
        return "requests that need a look-up get 503; those that bring all inputs are answered"
    if service.degraded == "default":
        return "answers go on with the declared defaults, and say so"
    return f"answers go on with values read at most {service.degraded_max_age} ago, else with the declared defaults, and say so"


def without_log(backlog_rows: int) -> str:
    """What it means that the prediction log takes nothing."""
    return f"answers go on and say `logged: degraded`; up to {backlog_rows:,} predictions wait in memory and are logged when there is room again"


def without_model(version: int | None) -> str:
    """What it means that a version that is to answer cannot be loaded; `version`: the live one."""
    if version is None:
        return "nothing answers until a version that can be loaded is live"
    return f"answers go on with version {version}; the other one takes no request"
