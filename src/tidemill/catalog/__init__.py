"""Finding things."""

from tidemill.catalog.entries import entries

__all__ = ["entries"]
