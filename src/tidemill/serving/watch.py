"""What a server does beside answering: take over changed deployments, tell the loop what was counted and the console what is gone.

Two threads. One asks the ledger, less and less often while it does not answer; the other sees that the first comes back, and never asks
anybody, so that a ledger that hangs (a lock, a dead disk) is noticed too and the counts of this process stay new.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from tidemill.core.conditions import Condition
from tidemill.core.errors import LedgerGoneError, TidemillError
from tidemill.ledger.conditions import SAY_AGAIN_S
from tidemill.serving.conditions import Conditions, without_ledger, without_model
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.graph.scorer import NoVersionError
from tidemill.serving.tally import Counted

logger = logging.getLogger(__name__)
Report = Callable[[Counted], None]
Tell = Callable[[Sequence[Condition]], None]
_LONGEST_S, _LATE_S = 5.0, 5.0
"""The longest pause between two questions to a ledger that is gone; and after how long without an answer it counts as gone."""


class Watch:
    """Watches the ledger for a server's services.

    Args:
        endpoints: by service.
        conditions: told when the ledger goes, or a version cannot be loaded.
        poll_s: how often deployments are looked at.
        publish: puts this process's counts where the other processes find them.
        report: takes what versions of a rollout have counted.
        tell: takes the conditions, for the console.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        conditions: Conditions,
        *,
        poll_s: float,
        publish: Callable[[], None],
        report: Report | None,
        tell: Tell | None,
    ) -> None:
        self._endpoints, self._conditions, self._poll_s = endpoints, conditions, poll_s
        self._publish, self._report, self._tell = publish, report, tell
        self._said: Sequence[Condition] = []
        self._said_at = 0.0
        self._asked_at: float | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"tidemill-{name}", daemon=True)
            for name, target in (("deployments", self._look_often), ("conditions", self._see_often))
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, and tell the rest of the counts, unless nobody would hear it."""
        self._stop.set()
        if not self._conditions.has("ledger"):
            self.tell_counts()
            self._tell_conditions([])

    def refresh(self) -> dict[str, bool | str]:
        """Take over changed deployments of every service; answers per service whether it changed, or why it could not."""
        return {name: self.take_over(endpoint) for name, endpoint in self._endpoints.items()}

    def take_over(self, endpoint: Endpoint, again: bool = False) -> bool | str:
        """Take over changed deployments of a service; whatever is wrong with a new model, the old one goes on answering."""
        scorer, name = endpoint.scorer, endpoint.scorer.service.name
        try:
            changed = scorer.refresh(again=again)
        except Exception as error:  # noqa: BLE001 - a model library may raise anything
            endpoint.problem = str(error) if isinstance(error, TidemillError) else repr(error)
            self._state(endpoint, error)
            return endpoint.problem
        if not scorer.released:
            endpoint.problem = ""
        self._state(endpoint, None)
        if changed:
            served = [f"{d.role}={d.version}" for d in scorer.lineup.deployments]
            logger.info("deployment.changed", extra={"service": name, "serves": served})
        return changed

    def _state(self, endpoint: Endpoint, error: Exception | None) -> None:
        """Say what the last look found: the ledger gone, or, when it answered, which versions cannot be loaded."""
        name, live = endpoint.scorer.service.name, _live(endpoint)
        if isinstance(error, LedgerGoneError):
            self._conditions.state(name, "ledger", endpoint.problem, without_ledger(live))
            return
        self._conditions.state(name, "ledger", "")
        new = isinstance(error, NoVersionError) and live is None
        refused = "; ".join(endpoint.scorer.lineup.failures.values()) if error is None else "" if new else endpoint.problem
        self._conditions.state(name, "model", refused, without_model(live))

    def _look_often(self) -> None:
        pause = self._poll_s
        while not self._stop.wait(pause):
            self._asked_at = monotonic()
            self.refresh()
            self.tell_counts()
            self._tell_conditions(self._conditions.current())
            self._asked_at = None
            pause = min(_LONGEST_S, 2 * pause) if self._conditions.has("ledger") else self._poll_s

    def _see_often(self) -> None:
        while not self._stop.wait(self._poll_s):
            if any(endpoint.scorer.loading for endpoint in self._endpoints.values()):
                self._asked_at = monotonic()  # it is a model that takes long
            asked = self._asked_at
            if asked is not None and monotonic() - asked > _LATE_S:
                for name, endpoint in self._endpoints.items():
                    said = f"the ledger has not answered for more than {_LATE_S:g} s; see who locks it, and its disk or server"
                    self._conditions.state(name, "ledger", said, without_ledger(_live(endpoint)))
            self._publish()

    def tell_counts(self) -> None:
        """State what versions under comparison did since the last time, where the loop that judges them finds it."""
        if self._report is None or self._conditions.has("ledger"):
            return
        for endpoint in self._endpoints.values():
            counted = endpoint.scorer.tally.changed()
            try:
                if counted:
                    self._report(counted)
            except Exception as error:  # noqa: BLE001 - the ledger may be gone: answers go on, and the counts are stated with the next ones
                endpoint.scorer.tally.again(counted)
                logger.error("tally.lost", extra={"service": endpoint.scorer.service.name, "reason": str(error)})

    def _tell_conditions(self, current: Sequence[Condition]) -> None:
        """Say what is gone where the console finds it: when it changes, and again while it lasts."""
        if self._tell is None or (current == self._said and not (current and monotonic() - self._said_at > SAY_AGAIN_S)):
            return
        try:
            self._tell(current)
        except Exception as error:  # noqa: BLE001 - the ledger may be gone: it is said with the next look
            logger.debug("conditions.untold", extra={"reason": str(error)})
            return
        self._said, self._said_at = current, monotonic()


def _live(endpoint: Endpoint) -> int | None:
    live = endpoint.scorer.lineup.live
    return None if live is None else live.version
