"""A prediction log around another one: what a wrapper does not change is passed on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from tidemill.serving.ports import Prediction, PredictionLog, Role


class AroundLog:
    """A `PredictionLog` that is the other one, until a subclass says otherwise."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        """Into the other log."""
        self._log.append(predictions, durable=durable)

    def read(
        self, service: str, *, from_us: int = 0, until_us: int | None = None, roles: Iterable[Role] | None = None
    ) -> Iterator[Prediction]:
        """As the other log has them."""
        return self._log.read(service, from_us=from_us, until_us=until_us, roles=roles)

    def find(self, prediction_id: str) -> list[Prediction]:
        """As the other log has them."""
        return self._log.find(prediction_id)

    def scores(self, service: str, *, from_us: int = 0, until_us: int | None = None) -> Mapping[str, npt.NDArray[Any]]:
        """As the other log has them."""
        return self._log.scores(service, from_us=from_us, until_us=until_us)

    def claim(self, service: str, *, until_us: int, limit: int) -> tuple[str, list[Prediction]]:
        """As the other log has them."""
        return self._log.claim(service, until_us=until_us, limit=limit)

    def thin(self, batch: str) -> None:
        """In the other log."""
        self._log.thin(batch)

    def drop(self, service: str, *, before_us: int) -> int:
        """In the other log."""
        return self._log.drop(service, before_us=before_us)

    def close(self) -> None:
        """Let go of the other log."""
        close = getattr(self._log, "close", None)
        if callable(close):
            close()
