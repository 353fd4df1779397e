"""Reading the prediction log where it is in two places (see `archive`); a process that only writes loads nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from tidemill.core.errors import LostError
from tidemill.core.instants import DAY_US
from tidemill.serving.around import AroundLog
from tidemill.serving.keeping import table_of
from tidemill.serving.ports import THIN, Prediction, PredictionLog, Role
from tidemill.versioning.ports import TableStore

_Key = tuple[str, int, str]


class ArchivedLog(AroundLog):
    """A `PredictionLog` over a fast one and the tables that its older rows are archived in; `tables` opens them when one is read."""

    def __init__(self, log: PredictionLog, tables: Callable[[], TableStore]) -> None:
        super().__init__(log)
        self._tables = tables

    def read(
        self, service: str, *, from_us: int = 0, until_us: int | None = None, roles: Iterable[Role] | None = None
    ) -> Iterator[Prediction]:
        """As the fast log orders them, thin ones with what the table has; a day of the table is in memory at a time."""
        day, found = -1, dict[_Key, Prediction]()
        for prediction in self._log.read(service, from_us=from_us, until_us=until_us, roles=roles):
            if prediction.columns != THIN:
                yield prediction
                continue
            if prediction.at_us // DAY_US != day:
                day = prediction.at_us // DAY_US
                found = self._archived(service, day * DAY_US, (day + 1) * DAY_US)
            yield self._whole(prediction, found)

    def find(self, prediction_id: str) -> list[Prediction]:
        """All records of an id, thin ones with what their table has."""
        return [
            p if p.columns != THIN else self._whole(p, self._archived(p.service, p.at_us, p.at_us + 1, prediction_id))
            for p in self._log.find(prediction_id)
        ]

    def _archived(self, service: str, from_us: int, until_us: int, prediction_id: str | None = None) -> dict[_Key, Prediction]:
        from tidemill.serving.archive import found_in

        return found_in(self._tables(), service, from_us, until_us, prediction_id)

    def _whole(self, thin: Prediction, found: Mapping[_Key, Prediction]) -> Prediction:
        whole = found.get((thin.id, thin.version, thin.role))
        if whole is None:
            raise LostError(
                f"prediction {thin.id!r} of {thin.service!r} was archived, and table {table_of(thin.service)!r} does not have it; restore the table"
            )
        return whole
