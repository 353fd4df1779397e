"""Filling online state from published tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import pyarrow as pa

from tidemill.features.ports import StreamProcessor

logger = logging.getLogger(__name__)


def materialize(processor: StreamProcessor, tables: Mapping[str, Iterable[pa.Table]], *, at_us: int) -> dict[str, int]:
    """Push rows of tables in the order of ingestion and make them durable; doing it again changes nothing.

    State of tables whose views have changed is dropped first, so give all rows of those that still matter: those whose event, or
    the news of it, lies within the longest window or ttl before `at_us`.

    Args:
        processor: where the rows go.
        tables: rows by table name, in pieces.
        at_us: the present; what is older than every window is tidied away.

    Returns:
        How many rows were new, by table.
    """
    processor.advance(at_us)
    new: dict[str, int] = {}
    for name, pieces in tables.items():
        if name in processor.stale:
            processor.reset(name)
            logger.info("features.reset", extra={"table": name})
        new[name] = sum(processor.push(name, rows) for rows in pieces)
    processor.commit()
    logger.info("features.materialized", extra={"rows": new})
    return new
