"""Versions of feature views."""

import sqlalchemy as sa
from alembic import op

from tidemill.ledger.schema import LONG_TEXT

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Take a ledger from 0001 to 0002."""
    op.create_table(
        "view_version",
        sa.Column("view", sa.String(length=191), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=191), nullable=False),
        sa.Column("body", LONG_TEXT, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("published_us", sa.BigInteger(), nullable=True),
        sa.Column("deprecated_us", sa.BigInteger(), nullable=True),
        sa.Column("dropped_us", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("view", "number"),
    )
    with op.batch_alter_table("view_version", schema=None) as batch_op:
        batch_op.create_index("view_version_digest", ["digest"], unique=True)
