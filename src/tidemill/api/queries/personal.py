"""Who looked at personal values."""

from __future__ import annotations

from tidemill.ledger.store import Ledger, emit


def note_revealed(ledger: Ledger, subject: str, actor: str, *, at_us: int) -> None:
    """Keep in the audit log that somebody had personal columns shown in clear."""
    with ledger.write() as db:
        emit(db, "pii.revealed", subject, {}, at_us=at_us, actor=actor)
