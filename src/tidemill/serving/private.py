"""A prediction log that never holds a personal value in clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tidemill.core.privacy import Masker
from tidemill.serving.around import AroundLog
from tidemill.serving.ports import Prediction, PredictionLog


class PrivateLog(AroundLog):
    """A `PredictionLog` that keeps keyed hashes of the personal columns of each service, in another log.

    A prediction of a service that is not named is kept as it is.
    """

    def __init__(self, log: PredictionLog, private: Mapping[str, frozenset[str]], masker: Masker) -> None:
        super().__init__(log)
        self._private = {name: columns for name, columns in private.items() if columns}
        self._masker = masker

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        """Mask and store."""
        masked = [self._masked(p) if p.service in self._private else p for p in predictions] if self._private else predictions
        self._log.append(masked, durable=durable)

    def _masked(self, p: Prediction) -> Prediction:
        private, mask = self._private[p.service], self._masker
        values = tuple(mask(v) if c in private else v for c, v in zip(p.columns, p.values, strict=True))
        return msgspec.structs.replace(p, values=values, request={c: mask(v) if c in private else v for c, v in p.request.items()})
