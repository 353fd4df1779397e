"""How far streams are followed, as the follower told the ledger last."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tidemill.api.queries import state
from tidemill.api.queries.rows import Record
from tidemill.retraining.follow import STREAM


def streams(db: sa.Connection) -> list[Record]:
    """Each followed topic: table, topic, events taken since the follower started, records behind, events set aside by kind, and when that was."""
    found = [{**row["value"], "at_us": row["at_us"]} for row in state.below(db, STREAM)]
    return sorted(found, key=lambda one: (one["table"], one["topic"]))


def gauges(db: sa.Connection) -> dict[str, dict[str, float]]:
    """The same as metrics: values by label text, by name."""
    made: dict[str, dict[str, float]] = {"stream_behind_events": {}, "stream_quarantined_total": {}}
    for one in streams(db):
        table: Any = one["table"]
        made["stream_behind_events"][f'table="{table}",topic="{one["topic"]}"'] = one["behind"]
        for kind, n in sorted(one["quarantined"].items()):
            made["stream_quarantined_total"][f'table="{table}",kind="{kind}"'] = n
    return made if made["stream_behind_events"] else {}
