"""Since when the ledger has not answered this process, and whether it does again.

Who meets `LedgerGoneError` says so here. From then on a thread asks the ledger once a second until it answers, so that pages and streams know when
it is back, and the next time that it goes is a time of its own.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from tidemill.api.needs import Needs
from tidemill.api.queries import events
from tidemill.core.errors import LedgerGoneError
from tidemill.core.instants import SECOND_US

logger = logging.getLogger(__name__)
_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Absence:
    """That the ledger does not answer. `since_us`: when that was noticed; `reason`: what it said then."""

    since_us: int
    reason: str


class LedgerGone:
    """Whether the ledger is gone, as far as anybody here has noticed. Thread-safe."""

    def __init__(self, platform: Needs, *, again_s: float = _AGAIN_S) -> None:
        self._platform, self._again_s = platform, again_s
        self._lock = threading.Lock()
        self._now: Absence | None = None

    @property
    def now(self) -> Absence | None:
        """What is known at this moment; None while the ledger answers."""
        return self._now

    def state(self, error: LedgerGoneError) -> Absence:
        """Say that the ledger does not answer; answers since when."""
        with self._lock:
            known = self._now
            if known is not None:
                return known
            self._now = known = Absence(self._platform.clock.now_us(), str(error))
        logger.error("ledger.gone", extra={"reason": known.reason})
        threading.Thread(target=self._await, name="tidemill-ledger-gone", daemon=True).start()
        return known

    def _await(self) -> None:
        wait = threading.Event()
        while not wait.wait(self._again_s):
            try:
                with self._platform.ledger.read() as db:
                    events.last_seq(db)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it does not answer
                logger.debug("ledger.still_gone", extra={"reason": str(error)})
                continue
            with self._lock:
                known, self._now = self._now, None
            if known is not None:
                seconds = (self._platform.clock.now_us() - known.since_us) / SECOND_US
                logger.warning("ledger.back", extra={"seconds": round(seconds, 3)})
            return
