"""A prediction log that keeps a share of what is answered: decided by the id alone, so an answer and its shadows are kept together or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from tidemill.core.errors import InvalidError
from tidemill.serving.around import AroundLog
from tidemill.serving.ports import Prediction, PredictionLog

_SPAN = float(1 << 64)
NOT_SAMPLED, IN_PART, WRITTEN = "not sampled", "sampled in part", "written"


def is_kept(prediction_id: str, share: float) -> bool:
    """Whether the prediction with this id is logged; the same everywhere and always. A larger share keeps what a smaller one keeps."""
    digest = hashlib.blake2b(f"log\0{prediction_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _SPAN


def said(ids: Iterable[str], share: float, *, sync: bool = True) -> bool | str:
    """What an answer says about being logged when what is kept has been: True, that it is not sampled, or only some of its rows.

    Without `sync` it is `written` instead of True.
    """
    whole = True if sync else WRITTEN
    if share >= 1:
        return whole
    kept = {is_kept(id_, share) for id_ in ids}
    return IN_PART if len(kept) == 2 else whole if kept == {True} else NOT_SAMPLED


class SampledLog(AroundLog):
    """A `PredictionLog` that keeps the share `share` of what is appended, in another log."""

    def __init__(self, log: PredictionLog, share: float) -> None:
        if not 0 <= share <= 1:
            raise InvalidError(f"a share is 0 to 1, not {share}")
        super().__init__(log)
        self._share = share

    def append(self, predictions: Sequence[Prediction], *, durable: bool = True) -> None:
        """Keep those that are sampled."""
        kept = [p for p in predictions if is_kept(p.id, self._share)]
        if kept:
            self._log.append(kept, durable=durable)
