"""Reports of load tests."""

from __future__ import annotations

import sqlalchemy as sa

from tidemill.api.queries import state
from tidemill.api.queries.rows import Record
from tidemill.core.errors import NotFoundError


def listing(db: sa.Connection, service: str = "") -> list[Record]:
    """Heads of all reports, newest first; of one service when it is given."""
    rows = [{k: v for k, v in row["value"].items() if k not in ("history", "errors")} for row in state.below(db, "loadtest:")]
    return [row for row in rows if not service or row["service"] == service]


def one(db: sa.Connection, report_id: str) -> Record:
    """A whole report. Raises `NotFoundError`."""
    found: Record | None = state.find(db, f"loadtest:{report_id}")
    if found is None:
        raise NotFoundError(f"no load test {report_id!r}; make one with `tidemill loadtest SERVICE --run`")
    return found
