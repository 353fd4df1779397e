"""A prediction log that never holds a personal value in clear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy.typing as npt

from tidemill.core.privacy import Masker
from tidemill.serving.ports import Prediction, PredictionLog, Role


class PrivateLog:
    """A `PredictionLog` that keeps keyed hashes of the personal columns of each service, in another log.

    A prediction of a service that is not named is kept as it is.
    """

    def __init__(self, log: PredictionLog, private: Mapping[str, frozenset[str]], masker: Masker) -> None:
        self._log = log
        self._private = {name: columns for name, columns in private.items() if columns}
        self._masker = masker

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Mask and store."""
        self._log.append([self._masked(p) if p.service in self._private else p for p in predictions] if self._private else predictions)

    def _masked(self, p: Prediction) -> Prediction:
        private, mask = self._private[p.service], self._masker
        values = tuple(mask(v) if c in private else v for c, v in zip(p.columns, p.values, strict=True))
        return msgspec.structs.replace(p, values=values, request={c: mask(v) if c in private else v for c, v in p.request.items()})

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

    def close(self) -> None:
        """Let go of the other log."""
        close = getattr(self._log, "close", None)
        if callable(close):
            close()
