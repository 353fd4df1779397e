"""What a service does while its features cannot be read: fail at once, answer from defaults, or from what it read last.

A store that does not answer is asked again by one thread, not by requests, so only the first request waits for it (as long as the
store's own timeout allows); all others are answered as the service declares, and all is as before once the store answers.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tidemill.core.definitions import FeatureView, Service
from tidemill.core.errors import LostError, TidemillError, UnavailableError, not_found
from tidemill.core.instants import parse_duration
from tidemill.features.ports import VersionedReader

logger = logging.getLogger(__name__)
Notify = Callable[[str, Mapping[str, Any]], None]
"""Takes an event of the ledger: its kind (`serving.degraded`, `serving.recovered`) and its body."""
_LAST_KNOWN = 100_000


class DegradedValues(dict[str, Any]):
    """Feature values that are not what the store would have said. `mode`: `default` or `last_known`."""

    mode = "default"


class DegradedReader:
    """A `VersionedReader` of a service that goes on as the service declares. Thread-safe if the reader is.

    Args:
        service: says what to do, `Service.degraded`.
        reader: who is asked.
        retry_s: how often a store that does not answer is asked again.
        remember: how many requests' values `last_known` keeps, the ones read last.
        notify: told when the store goes and when it is back, from a thread of its own.

    Raises:
        NotFoundError: `degraded_defaults` names a feature that the service does not have.
    """

    def __init__(
        self,
        service: Service,
        reader: VersionedReader,
        *,
        retry_s: float = 0.5,
        remember: int = _LAST_KNOWN,
        notify: Notify = lambda _kind, _body: None,
    ) -> None:
        known = [column for view in service.views for column in view.columns]
        if unknown := sorted(set(service.degraded_defaults) - set(known)):
            raise not_found(f"feature (degraded_defaults of {service.name})", unknown[0], known)
        self.reason = ""
        self._service, self._reader, self._notify = service, reader, notify
        self._retry_s, self._size = retry_s, remember
        self._age_us = parse_duration(service.degraded_max_age)
        self._known: OrderedDict[tuple[Any, ...], tuple[int, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()
        self._lost = ""
        self._watcher: Callable[[str], None] = lambda _reason: None
        self._answered = 0
        self._closed = threading.Event()

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Have somebody told why features, or some of them, cannot be read, and, by an empty text, that they can again."""
        self._watcher = watcher
        if self.reason or self._lost:
            watcher(self.reason or self._lost)

    def current(self, view: str) -> FeatureView | None:
        """The version of a view that is current."""
        return self._reader.current(view)

    def version(self, digest: str) -> FeatureView | None:
        """The version with a digest."""
        return self._reader.version(digest)

    def whole_keys(self, views: Sequence[FeatureView]) -> frozenset[str]:
        """The columns among the views' keys that are whole numbers in the rows."""
        return self._reader.whole_keys(views)

    def known_us(self) -> dict[str, int]:
        """The greatest known time by view name."""
        return self._reader.known_us()

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values; `DegradedValues` where they are not the store's. Raises `UnavailableError` when the service is to fail."""
        if self.reason:
            return self._instead(views, keys, at_us, UnavailableError(self.reason))
        try:
            found = self._reader.read(views, keys, at_us)
        except LostError as error:
            return self._around(views, keys, at_us, error)
        except UnavailableError as error:
            self._open(error, views, keys[:1], at_us)
            return self._instead(views, keys, at_us, error)
        if self._service.degraded == "last_known":
            self._remember(views, keys, at_us, found)
        return found

    def _around(
        self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int, error: LostError
    ) -> list[dict[str, Any]]:
        """Some states were lost: find the requests that need them; the others get their values."""
        if len(keys) > 1:
            half = len(keys) // 2
            return self.read(views, keys[:half], at_us) + self.read(views, keys[half:], at_us)
        self._open(error, views, keys, at_us)
        return self._instead(views, keys, at_us, error)

    def _remember(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int, found: list[dict[str, Any]]) -> None:
        names = _keys_of(views)
        with self._lock:
            for request, values in zip(keys, found, strict=True):
                key = tuple([request.get(name) for name in names])
                self._known[key] = (at_us, values)
                self._known.move_to_end(key)
            while len(self._known) > self._size:
                self._known.popitem(last=False)

    def _instead(
        self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int, error: UnavailableError
    ) -> list[dict[str, Any]]:
        if self._service.degraded == "fail":
            raise UnavailableError(
                f"{self._service.name} cannot read its features: {error}; ask again soon, it recovers by itself"
            ) from error
        columns, names = [c for view in views for c in view.columns], _keys_of(views)
        nothing = {c: self._service.degraded_defaults.get(c) for c in columns}
        answers: list[dict[str, Any]] = []
        for request in keys:
            values = DegradedValues(nothing)
            if self._service.degraded == "last_known":
                at, last = self._known.get(tuple([request.get(name) for name in names]), (0, {}))
                if last and at_us - at <= self._age_us:
                    values.update({c: last[c] for c in columns if c in last})
                    values.mode = "last_known"
            answers.append(values)
        self._answered += len(answers)
        return answers

    def _open(self, error: UnavailableError, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> None:
        lost = isinstance(error, LostError)
        with self._lock:
            if self._lost if lost else self.reason:
                return
            if lost:
                self._lost = str(error)
            else:
                self.reason = str(error)
        self._watcher(self.reason or self._lost)
        name = f"tidemill-features-{self._service.name}"
        threading.Thread(target=self._wait, args=(views, keys, at_us, lost), name=name, daemon=True).start()

    def _wait(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int, lost: bool) -> None:
        """Ask until there is an answer, whatever it is; for what was lost, until it was made anew."""
        self._tell("serving.degraded", self._lost if lost else self.reason)
        while not self._closed.wait(self._retry_s):
            try:
                self._reader.read(views, keys, at_us)
            except LostError:
                if lost:
                    continue
            except UnavailableError:
                continue
            except TidemillError:
                break
            break
        if self._closed.is_set():
            return
        if lost:
            self._lost = ""
        else:
            self.reason = ""
        self._watcher(self.reason or self._lost)
        self._tell("serving.recovered", "", rows=self._answered)

    def _tell(self, kind: str, reason: str, **more: int) -> None:
        try:
            self._notify(kind, {"mode": self._service.degraded, **({"reason": reason} if reason else {}), **more})
        except Exception as error:  # noqa: BLE001 - the ledger may be gone as well; answers go on, and the log has it
            logger.error("event.lost", extra={"event": kind, "reason": str(error)})

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()


def _keys_of(views: Sequence[FeatureView]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for view in views for key in view.keys))
