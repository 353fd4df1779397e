"""Walking a table's snapshots, and the changes of its metadata that we make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyiceberg.table import Table
from pyiceberg.table import update as changes
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Snapshot

from tidemill.versioning.embedded.snapshots import AT, FORK

MAIN = "main"
_changes: Any = changes  # its models take names by field, which type checkers see by alias


def history(table: Table, snapshot: Snapshot | None) -> Iterator[Snapshot]:
    """A snapshot and those before it, newest first, as far back as they are kept."""
    by_id = {s.snapshot_id: s for s in table.metadata.snapshots}
    while snapshot is not None:
        yield snapshot
        snapshot = by_id.get(snapshot.parent_snapshot_id) if snapshot.parent_snapshot_id is not None else None


def own_snapshots(table: Table, tip: Snapshot) -> list[Snapshot]:
    """A branch's snapshots behind its fork from main, newest first."""
    fork = fact(tip, FORK)
    own = []
    for snapshot in history(table, tip):
        if str(snapshot.snapshot_id) == fork:
            break
        own.append(snapshot)
    return own


def fact(snapshot: Snapshot | None, name: str) -> str:
    """A property of a snapshot, "" when it has none of this name."""
    if snapshot is None or snapshot.summary is None:
        return ""
    return snapshot.summary[name] or ""


def at_us(snapshot: Snapshot) -> int:
    """When it was committed, by the clock of who did it."""
    at = fact(snapshot, AT)
    return int(at) if at else snapshot.timestamp_ms * 1000


def id_of(snapshot: Snapshot | None) -> int | None:
    """The id of a snapshot that may not exist."""
    return None if snapshot is None else snapshot.snapshot_id


def add(snapshot: Snapshot) -> Any:
    """Bring a snapshot into the metadata."""
    return _changes.AddSnapshotUpdate(snapshot=snapshot)


def point(name: str, identity: int, *, kind: SnapshotRefType = SnapshotRefType.BRANCH) -> Any:
    """Make a branch or tag name a snapshot."""
    return _changes.SetSnapshotRefUpdate(ref_name=name, type=kind, snapshot_id=identity)


def drop_name(name: str) -> Any:
    """Forget the name of a branch or tag."""
    return _changes.RemoveSnapshotRefUpdate(ref_name=name)


def expire(identities: list[int]) -> Any:
    """Forget snapshots."""
    return _changes.RemoveSnapshotsUpdate(snapshot_ids=identities)


def set_property(name: str, value: str) -> Any:
    """Set a table property."""
    return _changes.SetPropertiesUpdate(updates={name: value})
