"""A folder of files, or one file, as a source: one file is one batch.

When a file is available its name says. A name that starts with an ISO date (`2013-05-14.parquet`, `2013-05-14.r1.parquet`) counts from
the END of that UTC day, one that starts with an ISO date and time (`2013-05-14T1200.parquet`, `2013-05-14T12:00:30.csv`) from that
instant; any other name from the file's modification time. Files are read in the order (available, name). A file is written once:
write it under another name first (starting with `.` or `_`, or ending in `.part` or `.tmp`: those are passed over), then rename it. A file that is written
anew is a new batch: its rows come in again, beside the old ones.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

from tidemill.core import digests, ids
from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.core.instants import DAY_US, format_instant, parse_instant
from tidemill.ingestion.embedded.readers import READERS, read_rows, suffix
from tidemill.ingestion.ports import Batch, UnreadableError

_STAMP = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}):?(\d{2})(?::?(\d{2}))?Z?)?(?![0-9])")


@dataclass(frozen=True, slots=True, order=True)
class _File:
    available_us: int
    name: str


class FilesSource:
    """A `Source` over the files right in a folder, or over the one file that `folder` is.

    A cursor is the last file read, with a digest of the names up to it. When those names change (a day delivered late, old files
    removed), everything up to the cursor is given once more: the reader knows batches by their id, so nothing is taken twice and
    no late file is lost.
    """

    def __init__(self, folder: Path, table: Table) -> None:
        self._folder = folder
        self._table = table

    def read(self, *, after: str | None, until_us: int) -> Iterator[Batch]:
        files = self._list(until_us)
        marks = list(accumulate((file.name for file in files), _chain, initial=""))[1:]
        behind = _behind(files, after)
        again = behind > 0 and after != _cursor(files[behind - 1], marks[behind - 1])
        for index in range(0 if again else behind, len(files)):
            yield self._batch(files[index], _cursor(files[index], marks[index]))

    def _list(self, until_us: int) -> list[_File]:
        """Every file that has come as a batch, in order."""
        try:
            if self._folder.is_file():
                return [f for f in (_File(_available_us(self._folder), self._folder.name),) if f.available_us <= until_us]
            with os.scandir(self._folder) as entries:
                found = [_File(_available_us(entry), entry.name) for entry in entries if _is_batch(entry.name) and entry.is_file()]
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise UnavailableError(f"the folder {self._folder} of table {self._table.name!r} cannot be listed: {exc}") from exc
        return sorted((file for file in found if file.available_us <= until_us), key=lambda file: (file.available_us, file.name))

    def _batch(self, file: _File, cursor: str) -> Batch:
        path = self._folder if self._folder.is_file() else self._folder / file.name
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise UnavailableError(f"{path} cannot be read: {exc}") from exc
        digest = digests.of_bytes(data)
        batch_id = ids.derive("batch", self._table.name, file.name, digest)
        try:
            return Batch(batch_id, read_rows(file.name, data, self._table), cursor, file.available_us, file.name, digest)
        except InvalidError as exc:
            message = f"{file.name} {exc}"
            raise UnreadableError(message, id=batch_id, cursor=cursor, available_us=file.available_us, origin=file.name) from exc


@lru_cache(maxsize=100_000)
def _is_batch(name: str) -> bool:
    return suffix(name) in READERS and name[0] not in "._"


def _available_us(entry: "os.DirEntry[str] | Path") -> int:
    """When a file came, by its name or else by its modification time."""
    stamp = stamp_us(entry.name)
    return entry.stat().st_mtime_ns // 1000 if stamp is None else stamp


@lru_cache(maxsize=100_000)
def stamp_us(name: str) -> int | None:
    """The instant from which a file counts by its name; None when the name says nothing."""
    if not (stamp := _STAMP.match(name)):
        return None
    day, hour, minute, second = stamp.groups()
    try:
        return parse_instant(f"{day}T{hour}:{minute}:{second or '00'}Z") if hour else parse_instant(day) + DAY_US
    except InvalidError:  # 2013-02-30: no date after all
        return None


def _behind(files: list[_File], cursor: str | None) -> int:
    """How many files are at or before the cursor."""
    if cursor is None:
        return 0
    try:
        moment, _, name = cursor.split(" ", 2)
        mark = _File(parse_instant(moment), name)
    except ValueError:
        raise InvalidError(f"{cursor!r} is not a cursor of a files source; start from the beginning (None)") from None
    return sum(file <= mark for file in files)


def _cursor(file: _File, mark: str) -> str:
    return f"{format_instant(file.available_us)} {mark} {file.name}"


@lru_cache(maxsize=100_000)
def _chain(before: str, name: str) -> str:
    return blake2b(f"{before}/{name}".encode(), digest_size=8).hexdigest()
