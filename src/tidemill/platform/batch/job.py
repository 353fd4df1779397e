"""What is known of a batch of predictions on disk, so that a killed one goes on where it was: its pins, and the parts that are done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core import digests

_PART = "part-{:06d}.parquet"


class Job:
    """One batch in a folder of its own. A part is written whole or not at all."""

    def __init__(self, home: Path, asked: Mapping[str, Any]) -> None:
        """Find the batch that was asked for in the same words, or begin it."""
        self.id = digests.of_bytes(digests.canonical_json(asked))[7:23]
        self.folder = home / self.id
        self._asked = asked

    @property
    def pins(self) -> dict[str, Any] | None:
        """What the batch was begun with, None when it was not."""
        path = self.folder / "job.json"
        return json.loads(path.read_bytes())["pins"] if path.is_file() else None

    def begin(self, pins: Mapping[str, Any]) -> None:
        """Keep what the batch reads, so that whoever goes on reads the same."""
        self.forget()
        self.folder.mkdir(parents=True)
        _write(self.folder / "job.json", lambda path: path.write_text(json.dumps({"asked": self._asked, "pins": pins}, indent=1)))

    def has(self, part: int) -> bool:
        """Whether a part is done."""
        return self._path(part).is_file()

    def keep(self, part: int, rows: pa.Table) -> None:
        """Write a part, durably."""
        _write(self._path(part), lambda path: pq.write_table(rows, path))

    def parts(self) -> Iterator[tuple[str, pa.Table]]:
        """Name and rows of each part, in order."""
        for path in sorted(self.folder.glob("part-*.parquet")):
            yield path.stem, pq.read_table(path)

    def into_file(self, path: Path) -> None:
        """All parts as one file, which is there whole or not at all."""

        def write(beside: Path) -> None:
            writer: Any = None
            for _name, rows in self.parts():
                writer = writer or pq.ParquetWriter(beside, rows.schema)
                writer.write_table(rows)
            writer.close()

        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, write)

    def forget(self) -> None:
        """Remove the batch's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, part: int) -> Path:
        return self.folder / _PART.format(part)


def _write(path: Path, write: Any) -> None:
    """Write beside `path`, flush, and give it the name in one step."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
