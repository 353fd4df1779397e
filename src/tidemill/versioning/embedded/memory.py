"""What a table remembers of the batches and branches whose snapshots have been expired, so that none is taken twice.

The names are kept as short digests in a file beside the metadata; a table property names the file, so it changes in the same commit as
the snapshots it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from cachetools import LRUCache
from pyiceberg.table import Table

from tidemill.versioning.embedded import disk

PROPERTY = "tidemill.remembered"
_SIZE = 12
_known: LRUCache[str, frozenset[bytes]] = LRUCache(64)


def knows(table: Table, kind: str, name: str) -> bool:
    """Whether a batch or branch of this name was on main once."""
    return _mark(kind, name) in _load(table)


def extend(table: Table, names: Iterable[tuple[str, str]], stem: str) -> str:
    """Write a file that remembers (kind, name) pairs besides what is remembered already; return what to set the property to."""
    marks = _load(table) | {_mark(kind, name) for kind, name in names}
    location = f"{table.location()}/metadata/remembered-{stem}.bin"
    disk.write(disk.local(location), b"".join(sorted(marks)))
    return location


def _mark(kind: str, name: str) -> bytes:
    return sha256(f"{kind}\x00{name}".encode()).digest()[:_SIZE]


def _load(table: Table) -> frozenset[bytes]:
    location = table.properties.get(PROPERTY)
    if not location:
        return frozenset()
    found = _known.get(location)
    if found is None:
        data = disk.local(location).read_bytes()
        found = _known[location] = frozenset(data[i : i + _SIZE] for i in range(0, len(data), _SIZE))
    return found
