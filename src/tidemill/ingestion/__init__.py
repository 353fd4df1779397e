"""Ingestion: rows come in batches, and each is written, audited and published, or rejected."""

from tidemill.ingestion.ingest import IngestReport, ingest, rejected

__all__ = ["IngestReport", "ingest", "rejected"]
