"""Alembic's entry point: it runs on the connection that `tidemill.ledger.migrate` hands over."""

from typing import Any, Literal

from alembic import context

from tidemill.ledger.schema import LONG_BYTES, LONG_TEXT, metadata


def _spell(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """How a revision spells our own column types."""
    if kind == "type" and (item is LONG_TEXT or item is LONG_BYTES):
        return "LONG_TEXT" if item is LONG_TEXT else "LONG_BYTES"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    render_item=_spell,
)
with context.begin_transaction():
    context.run_migrations()
