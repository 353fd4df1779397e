"""${message}."""

import sqlalchemy as sa
from alembic import op

from tidemill.ledger.schema import LONG_BYTES, LONG_TEXT

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Take a ledger from ${down_revision or "nothing"} to ${up_revision}."""
    ${upgrades if upgrades else "pass"}
