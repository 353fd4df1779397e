"""Reports of replayed traffic: what another version would have answered."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries import state
from tidemill.api.queries.rows import Record
from tidemill.core.errors import NotFoundError

_HEAD = ("id", "at_us", "service", "version", "rows", "differ", "crossed", "from_us", "until_us", "quality")


def listing(db: sa.Connection, service: str = "") -> list[Record]:
    """Heads of all reports, newest first; of one service when it is given."""
    rows = [{k: row["value"].get(k) for k in _HEAD} for row in state.below(db, "traffic:")]
    return [row for row in rows if not service or row["service"] == service]


def one(db: sa.Connection, report_id: str) -> Record:
    """A whole report. Raises `NotFoundError`."""
    found: Record | None = state.find(db, f"traffic:{report_id}")
    if found is None:
        raise NotFoundError(f"no replayed traffic {report_id!r}; make a report with `tidemill replay-traffic SERVICE --model VERSION`")
    return found
