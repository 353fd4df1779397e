"""Counts of what the versions of a rollout did, for the loop to judge: calls, failures, slow calls, by deployment and role."""

from __future__ import annotations

import threading

from tidemill.ledger.tallies import Counts

Counted = dict[str, dict[str, Counts]]


class Tally:
    """Counts calls of models; thread-safe. `slow_us`: longer is slow, 0 for never."""

    def __init__(self, slow_us: int = 0) -> None:
        self._slow_us = slow_us
        self._lock = threading.Lock()
        self._counts: Counted = {}
        self._changed: set[str] = set()

    def answered(self, deployment: str, role: str, latency_us: int) -> None:
        """Count a call that was answered."""
        self._add(deployment, role, Counts(1, 0, int(0 < self._slow_us < latency_us)))

    def failed(self, deployment: str, role: str) -> None:
        """Count a call that failed."""
        self._add(deployment, role, Counts(1, 1, 0))

    def take(self, other: Tally, times: int) -> None:
        """Count what another one has, of calls that were made `times` together: each of them, but one that was slow was so once."""
        for deployment, roles in other.changed().items():
            for role, counts in roles.items():
                self._add(deployment, role, Counts(counts.calls * times, counts.failed * times, counts.slow))

    def like(self) -> Tally:
        """An empty one that calls the same slow."""
        return Tally(self._slow_us)

    def _add(self, deployment: str, role: str, counts: Counts) -> None:
        with self._lock:
            roles = self._counts.setdefault(deployment, {})
            roles[role] = roles.get(role, Counts()) + counts
            self._changed.add(deployment)

    def changed(self) -> Counted:
        """All counts of the deployments that counted something since the last call of this."""
        with self._lock:
            found = {name: dict(self._counts[name]) for name in self._changed}
            self._changed.clear()
        return found

    def again(self, counted: Counted) -> None:
        """Give these deployments out again: whoever was told could not keep it."""
        with self._lock:
            self._changed.update(counted)
