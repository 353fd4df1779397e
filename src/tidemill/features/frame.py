"""Everything a model learns from, for spine rows at their own times."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError
from tidemill.features.ondemand import append_on_demand
from tidemill.features.ports import AT, OfflineStore
from tidemill.versioning.ports import Scan

ID = "id"
"""Name of the column that holds each row's id: the text of the service's key."""


def training_frame(service: Service, rows: pa.Table, offline: OfflineStore, scans: Mapping[str, Scan]) -> pa.Table:
    """Model inputs of spine rows, each as it would have been served.

    Args:
        service: whose features.
        rows: rows of the service's spine table. A column `at` (timestamp, UTC) says when each is served; without it, that is
            the lead before its event time. A column `id` is kept if it is there.
        offline: computes the views.
        scans: where the rows of the views' tables are, by table name.

    Returns:
        One row per spine row, in order: `id`, `at`, the other columns of `rows`, then `Service.columns` in their order.

    Raises:
        InvalidError: a column is missing or of the wrong type.
    """
    rows = _with_identity(service, rows)
    joined = append_on_demand(service, offline.join(rows, service.views, scans))
    if missing := [c for c in service.columns if c not in joined.column_names]:
        raise InvalidError(f"service {service.name!r} uses {', '.join(missing)}, which its spine {service.spine.name!r} lacks")
    others = [c for c in joined.column_names if c not in (ID, AT) and c not in service.columns]
    return joined.select([ID, AT, *others, *service.columns])


def _with_identity(service: Service, rows: pa.Table) -> pa.Table:
    if AT not in rows.column_names:
        event = _column(service, rows, service.spine.event_time)
        if not pa.types.is_timestamp(event.type) or event.type.tz is None:
            raise InvalidError(f"column {service.spine.event_time!r} is {event.type}; it must be a timestamp with a time zone")
        lead = pa.scalar(service.lead_us, pa.duration("us"))
        rows = rows.append_column(AT, pc.subtract(pc.cast(event, pa.timestamp("us", "UTC"), safe=False), lead))
    if ID not in rows.column_names:
        rows = rows.append_column(ID, _column(service, rows, service.key).cast(pa.string()))
    return rows


def _column(service: Service, rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise InvalidError(f"the spine rows of service {service.name!r} lack {name!r}; they have {', '.join(rows.column_names)}")
    return rows[name]
