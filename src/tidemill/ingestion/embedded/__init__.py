"""Ingestion on one machine: files, SQLite, and a durable log for what is pushed."""

from tidemill.ingestion.embedded.files import FilesSource
from tidemill.ingestion.embedded.logstream import LogStream
from tidemill.ingestion.embedded.open import open_source
from tidemill.ingestion.embedded.sqlite import SqliteSource

__all__ = ["FilesSource", "LogStream", "SqliteSource", "open_source"]
