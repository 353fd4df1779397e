"""The first tables."""

import sqlalchemy as sa
from alembic import op

from tidemill.ledger.schema import LONG_BYTES, LONG_TEXT, MYSQL

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Take a ledger from nothing to 0001."""
    op.create_table(
        "artifact",
        sa.Column("digest", sa.String(length=191), nullable=False),
        sa.Column("kind", sa.String(length=191), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("meta", LONG_TEXT, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        **MYSQL,
    )
    op.create_table(
        "batch",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("table_name", sa.String(length=191), nullable=False),
        sa.Column("source", LONG_TEXT, nullable=False),
        sa.Column("status", sa.String(length=191), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_id", sa.BigInteger(), nullable=True),
        sa.Column("branch", sa.String(length=191), nullable=True),
        sa.Column("anomalies", LONG_TEXT, nullable=False),
        sa.Column("cursor", LONG_TEXT, nullable=False),
        sa.Column("digest", sa.String(length=191), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("wall_ms", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **MYSQL,
    )
    with op.batch_alter_table("batch", schema=None) as batch_op:
        batch_op.create_index("batch_table", ["table_name", "at_us"], unique=False)

    op.create_table(
        "cause",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("kind", sa.String(length=191), nullable=False),
        sa.Column("service", sa.String(length=191), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("evidence", LONG_TEXT, nullable=False),
        sa.Column("run_id", sa.String(length=96), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        **MYSQL,
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("kind", sa.String(length=191), nullable=False),
        sa.Column("service", sa.String(length=191), nullable=False),
        sa.Column("subject", sa.String(length=191), nullable=False),
        sa.Column("outcome", sa.String(length=191), nullable=False),
        sa.Column("cause", LONG_TEXT, nullable=False),
        sa.Column("evidence", LONG_TEXT, nullable=False),
        sa.Column("actor", sa.String(length=191), nullable=False),
        sa.Column("reverses", sa.String(length=96), nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **MYSQL,
    )
    with op.batch_alter_table("decision", schema=None) as batch_op:
        batch_op.create_index("decision_service", ["service", "at_us"], unique=False)

    op.create_table(
        "deployment",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("service", sa.String(length=191), nullable=False),
        sa.Column("model", sa.String(length=191), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=191), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.String(length=96), nullable=False),
        sa.Column("since_us", sa.BigInteger(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        **MYSQL,
    )
    with op.batch_alter_table("deployment", schema=None) as batch_op:
        batch_op.create_index("deployment_service", ["service", "role"], unique=False)

    op.create_table(
        "event",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=191), nullable=False),
        sa.Column("subject", sa.String(length=191), nullable=False),
        sa.Column("actor", sa.String(length=191), nullable=False),
        sa.Column("body", LONG_TEXT, nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        **MYSQL,
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index("event_id", ["id"], unique=True)
        batch_op.create_index("event_kind", ["kind", "seq"], unique=False)
        batch_op.create_index("event_subject", ["subject", "seq"], unique=False)

    op.create_table(
        "lineage",
        sa.Column("source", sa.String(length=191), nullable=False),
        sa.Column("target", sa.String(length=191), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source", "target", "role"),
        **MYSQL,
    )
    with op.batch_alter_table("lineage", schema=None) as batch_op:
        batch_op.create_index("lineage_target", ["target"], unique=False)

    op.create_table(
        "metric",
        sa.Column("run_id", sa.String(length=96), nullable=False),
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name", "step"),
        sqlite_with_rowid=False,
        **MYSQL,
    )
    op.create_table(
        "metric_last",
        sa.Column("run_id", sa.String(length=96), nullable=False),
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name"),
        sqlite_with_rowid=False,
        **MYSQL,
    )
    with op.batch_alter_table("metric_last", schema=None) as batch_op:
        batch_op.create_index("metric_last_value", ["name", "value"], unique=False)

    op.create_table(
        "model",
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("meta", LONG_TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **MYSQL,
    )
    op.create_table(
        "model_alias",
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("alias", sa.String(length=191), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.String(length=96), nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "alias"),
        **MYSQL,
    )
    op.create_table(
        "model_version",
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=191), nullable=False),
        sa.Column("run_id", sa.String(length=96), nullable=False),
        sa.Column("status", sa.String(length=191), nullable=False),
        sa.Column("metrics", LONG_TEXT, nullable=False),
        sa.Column("meta", LONG_TEXT, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version"),
        **MYSQL,
    )
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.create_index("model_version_digest", ["name", "digest", "run_id"], unique=True)

    op.create_table(
        "observation",
        sa.Column("service", sa.String(length=191), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("objective", sa.String(length=191), nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("covered", sa.BigInteger(), nullable=False),
        sa.Column("body", LONG_TEXT, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("service", "version", "objective", "from_us", "until_us"),
        **MYSQL,
    )
    op.create_table(
        "param",
        sa.Column("run_id", sa.String(length=96), nullable=False),
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("value", LONG_TEXT, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name"),
        sqlite_with_rowid=False,
        **MYSQL,
    )
    op.create_table(
        "profile",
        sa.Column("subject", sa.String(length=191), nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("body", LONG_BYTES, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "from_us", "until_us"),
        **MYSQL,
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("pipeline", sa.String(length=191), nullable=False),
        sa.Column("service", sa.String(length=191), nullable=False),
        sa.Column("cause_id", sa.String(length=96), nullable=False),
        sa.Column("status", sa.String(length=191), nullable=False),
        sa.Column("params", LONG_TEXT, nullable=False),
        sa.Column("graph", LONG_TEXT, nullable=False),
        sa.Column("code", LONG_TEXT, nullable=False),
        sa.Column("environment", LONG_TEXT, nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("finished_us", sa.BigInteger(), nullable=True),
        sa.Column("wall_s", sa.Double(), nullable=True),
        sa.Column("error", LONG_TEXT, nullable=True),
        sa.Column("output", LONG_TEXT, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        **MYSQL,
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.create_index("run_started", ["started_us"], unique=False)

    op.create_table(
        "state",
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("value", LONG_TEXT, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **MYSQL,
    )
    op.create_table(
        "step_cache",
        sa.Column("cache_key", sa.String(length=191), nullable=False),
        sa.Column("step", sa.String(length=191), nullable=False),
        sa.Column("output", LONG_TEXT, nullable=False),
        sa.Column("run_id", sa.String(length=96), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cache_key"),
        **MYSQL,
    )
    op.create_table(
        "step_run",
        sa.Column("run_id", sa.String(length=96), nullable=False),
        sa.Column("node", sa.String(length=191), nullable=False),
        sa.Column("step", sa.String(length=191), nullable=False),
        sa.Column("status", sa.String(length=191), nullable=False),
        sa.Column("cache_key", sa.String(length=191), nullable=False),
        sa.Column("key_parts", LONG_TEXT, nullable=False),
        sa.Column("inputs", LONG_TEXT, nullable=False),
        sa.Column("output", LONG_TEXT, nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("wall_ms", sa.Double(), nullable=True),
        sa.Column("error", LONG_TEXT, nullable=True),
        sa.PrimaryKeyConstraint("run_id", "node"),
        **MYSQL,
    )
    with op.batch_alter_table("step_run", schema=None) as batch_op:
        batch_op.create_index("step_run_step", ["step", "at_us"], unique=False)

    op.create_table(
        "token",
        sa.Column("hash", sa.String(length=191), nullable=False),
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("role", sa.String(length=191), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
        **MYSQL,
    )
    op.create_table(
        "trial",
        sa.Column("study", sa.String(length=96), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("params", LONG_TEXT, nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("state", sa.String(length=191), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("study", "number"),
        **MYSQL,
    )
