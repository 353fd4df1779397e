"""Ingestion: rows come in batches, and each is written, audited and published, or rejected."""

from tidemill.ingestion.eventquarantine import EventQuarantine, Quarantined
from tidemill.ingestion.events import read_events, skew_of
from tidemill.ingestion.ingest import IngestReport, begun, ingest, rejected
from tidemill.ingestion.push import push

__all__ = ["EventQuarantine", "IngestReport", "Quarantined", "begun", "ingest", "push", "read_events", "rejected", "skew_of"]
