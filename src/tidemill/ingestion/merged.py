"""Several sources whose rows go into one table: files from a batch job, and what is pushed in between."""

import json
from collections.abc import Iterator, Sequence
from heapq import merge

from tidemill.core.errors import InvalidError
from tidemill.ingestion.ports import Batch, Source, UnreadableError


class MergedSource:
    """A `Source` that gives the batches of its parts by when they came. A cursor is a list of theirs, in order."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = tuple(parts)

    def read(self, *, after: str | None, until_us: int) -> Iterator[Batch]:
        """Yield the batches behind the parts' cursors that had come by `until_us`."""
        cursors = self._cursors(after)
        streams = [self._tagged(i, cursors[i], until_us) for i in range(len(self._parts))]
        for _, i, came in merge(*streams, key=lambda item: item[:2]):
            cursors[i] = came.cursor
            where = json.dumps(cursors)
            if isinstance(came, UnreadableError):
                raise UnreadableError(str(came), id=came.id, cursor=where, available_us=came.available_us, origin=came.origin) from came
            yield Batch(came.id, came.rows, where, came.available_us, came.origin, came.digest)

    def _tagged(self, i: int, after: str | None, until_us: int) -> Iterator[tuple[int, int, Batch | UnreadableError]]:
        """A part's batches, at the end the one that cannot be read: it is told when its turn comes."""
        try:
            for batch in self._parts[i].read(after=after, until_us=until_us):
                yield batch.available_us, i, batch
        except UnreadableError as error:
            yield error.available_us, i, error

    def _cursors(self, after: str | None) -> list[str | None]:
        if after is None:
            return [None] * len(self._parts)
        try:
            cursors = json.loads(after)
        except ValueError:
            cursors = None
        if not isinstance(cursors, list) or len(cursors) != len(self._parts):
            raise InvalidError(f"{after!r} is not a cursor of {len(self._parts)} sources; start from the beginning (None)")
        return cursors
