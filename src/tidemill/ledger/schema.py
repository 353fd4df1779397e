"""The ledger's tables: the one place that says what Tidemill remembers.

Times are integers of microseconds since the epoch, UTC, as told by the `Clock` (so a replay writes history's times);
columns ending in `_s` or `_ms` are measured durations. JSON columns hold canonical JSON text. Ids are derived from
content (see `core.ids`), so inserting a thing twice is a no-op and a killed loop can start again anywhere.
"""

import math
import sys
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()
MYSQL: Any = {"mysql_engine": "InnoDB", "mysql_default_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
"""There, names must not be equal just because they look alike (the usual collations take A for a)."""


class Number(sa.types.TypeDecorator[float]):
    """A float64; NaN is null, as SQL has none. MySQL has no infinities either: the two largest numbers stand for them there."""

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> float | None:
        """What is stored."""
        if value is not None and value != value:
            return None
        infinite = value is not None and abs(value) == math.inf and dialect.name in ("mysql", "mariadb")
        return math.copysign(sys.float_info.max, value or 0.0) if infinite else value

    def process_result_value(self, value: float | None, dialect: sa.Dialect) -> float | None:
        """What was stored."""
        infinite = value is not None and abs(value) == sys.float_info.max and dialect.name in ("mysql", "mariadb")
        return math.copysign(math.inf, value or 0.0) if infinite else value


_TEXT = sa.Text()


def _t(name: str, *columns: sa.Column[object] | sa.Index | sa.PrimaryKeyConstraint, clustered: bool = False) -> sa.Table:
    """A table; `clustered` keeps its rows in the order of the primary key (SQLite's WITHOUT ROWID)."""
    if clustered:
        return sa.Table(name, metadata, *columns, sqlite_with_rowid=False, **MYSQL)
    return sa.Table(name, metadata, *columns, **MYSQL)


def _c(name: str, kind: Any = _TEXT, *, null: bool = False, key: bool = False) -> sa.Column[object]:
    return sa.Column(name, kind, primary_key=key, nullable=null and not key)


_ID = sa.String(96)
_NAME = sa.String(191)
_US = sa.BigInteger()
_INT = sa.Integer()
_NUM: Any = Number()
_LONG = 2**32 - 1  # MySQL's TEXT and BLOB end at 64 KB without it
LONG_TEXT = _JSON = sa.Text().with_variant(sa.Text(_LONG), "mysql", "mariadb")
LONG_BYTES = sa.LargeBinary().with_variant(sa.LargeBinary(_LONG), "mysql", "mariadb")

# every state change, in order: the audit log and what the console streams
event = _t(
    "event",
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
    _c("id", _ID),
    _c("at_us", _US),
    _c("kind", _NAME),
    _c("subject", _NAME),
    _c("actor", _NAME),
    _c("body", _JSON),
    sa.Index("event_id", "id", unique=True),
    sa.Index("event_kind", "kind", "seq"),
    sa.Index("event_subject", "subject", "seq"),
)

# why a run exists: kind is drift, quality, schedule, new_data or manual
cause = _t(
    "cause",
    _c("id", _ID, key=True),
    _c("kind", _NAME),
    _c("service", _NAME),
    _c("at_us", _US),
    _c("evidence", _JSON),
    _c("run_id", _ID, null=True),
)

# one execution of a pipeline. status: running, finished, failed
run = _t(
    "run",
    _c("id", _ID, key=True),
    _c("pipeline", _NAME),
    _c("service", _NAME),
    _c("cause_id", _ID),
    _c("status", _NAME),
    _c("params", _JSON),
    _c("graph", _JSON),
    _c("code", _JSON),
    _c("environment", _JSON),
    _c("started_us", _US),
    _c("finished_us", _US, null=True),
    _c("wall_s", _NUM, null=True),
    _c("error", LONG_TEXT, null=True),
    _c("output", _JSON, null=True),
    sa.Index("run_started", "started_us"),
)
# one node of a run's graph. status: running, cached, finished, failed; output: {"digest", "codec", ...}
step_run = _t(
    "step_run",
    _c("run_id", _ID, key=True),
    _c("node", _NAME, key=True),
    _c("step", _NAME),
    _c("status", _NAME),
    _c("cache_key", _NAME),
    _c("key_parts", _JSON),
    _c("inputs", _JSON),
    _c("output", _JSON, null=True),
    _c("at_us", _US),
    _c("wall_ms", _NUM, null=True),
    _c("error", LONG_TEXT, null=True),
    sa.Index("step_run_step", "step", "at_us"),
)
# finished steps by cache key
step_cache = _t("step_cache", _c("cache_key", _NAME, key=True), _c("step", _NAME), _c("output", _JSON), _c("run_id", _ID), _c("at_us", _US))
param = _t("param", _c("run_id", _ID, key=True), _c("name", _NAME, key=True), _c("value", LONG_TEXT), clustered=True)
# every value of a metric (NaN is null), written by `Ledger.log_metrics`; `metric_last` has the one of the greatest step, for searches
metric = _t(
    "metric",
    _c("run_id", _ID, key=True),
    _c("name", _NAME, key=True),
    _c("step", sa.BigInteger(), key=True),
    _c("value", _NUM, null=True),
    _c("at_us", _US),
    clustered=True,
)
metric_last = _t(
    "metric_last",
    _c("run_id", _ID, key=True),
    _c("name", _NAME, key=True),
    _c("step", sa.BigInteger()),
    _c("value", _NUM, null=True),
    _c("at_us", _US),
    sa.Index("metric_last_value", "name", "value"),
    clustered=True,
)

# content-addressed things and how they came from one another (role says how: input, output, trained_on, promoted_by …)
artifact = _t(
    "artifact", _c("digest", _NAME, key=True), _c("kind", _NAME), _c("size_bytes", sa.BigInteger()), _c("meta", _JSON), _c("at_us", _US)
)
lineage = _t(
    "lineage",
    _c("source", _NAME, key=True),
    _c("target", _NAME, key=True),
    _c("role", sa.String(64), key=True),
    _c("at_us", _US),
    sa.Index("lineage_target", "target"),
)

# ingestion: status is published or rejected
batch = _t(
    "batch",
    _c("id", _ID, key=True),
    _c("table_name", _NAME),
    _c("source", LONG_TEXT),
    _c("status", _NAME),
    _c("rows", sa.BigInteger()),
    _c("snapshot_id", sa.BigInteger(), null=True),
    _c("branch", _NAME, null=True),
    _c("anomalies", _JSON),
    _c("cursor", LONG_TEXT),
    _c("digest", _NAME),
    _c("at_us", _US),
    _c("wall_ms", _NUM),
    sa.Index("batch_table", "table_name", "at_us"),
)

# registry. A version's status: registered, then what its last decision made of it (champion, challenger, warm, retired, rejected, rolled_back)
model = _t("model", _c("name", _NAME, key=True), _c("at_us", _US), _c("meta", _JSON))
model_version = _t(
    "model_version",
    _c("name", _NAME, key=True),
    _c("version", _INT, key=True),
    _c("digest", _NAME),
    _c("run_id", _ID),
    _c("status", _NAME),
    _c("metrics", _JSON),
    _c("meta", _JSON),
    _c("at_us", _US),
    sa.Index("model_version_digest", "name", "digest", "run_id", unique=True),
)
model_alias = _t(
    "model_alias",
    _c("name", _NAME, key=True),
    _c("alias", _NAME, key=True),
    _c("version", _INT),
    _c("decision_id", _ID, null=True),
    _c("at_us", _US),
)

# every decision with its evidence. kind: audit, trigger, gate, rollout, rollback, manual; outcome: promote, reject, hold, advance, rollback, retrain …
decision = _t(
    "decision",
    _c("id", _ID, key=True),
    _c("kind", _NAME),
    _c("service", _NAME),
    _c("subject", _NAME),
    _c("outcome", _NAME),
    _c("cause", _JSON),
    _c("evidence", _JSON),
    _c("actor", _NAME),
    _c("reverses", _ID, null=True),
    _c("at_us", _US),
    sa.Index("decision_service", "service", "at_us"),
)
# one model version behind a service. role: shadow, canary, live, warm, retired, rejected, rolled_back; weight: share of answered requests, 0 to 1
deployment = _t(
    "deployment",
    _c("id", _ID, key=True),
    _c("service", _NAME),
    _c("model", _NAME),
    _c("version", _INT),
    _c("role", _NAME),
    _c("weight", _NUM),
    _c("stage", _INT),
    _c("decision_id", _ID),
    _c("since_us", _US),
    _c("started_us", _US),
    _c("ended_us", _US, null=True),
    sa.Index("deployment_service", "service", "role"),
)

# studies and trials (the tuner keeps its own storage; this is what the console and lineage read)
trial = _t(
    "trial",
    _c("study", _ID, key=True),
    _c("number", _INT, key=True),
    _c("params", _JSON),
    _c("value", _NUM, null=True),
    _c("state", _NAME),
    _c("at_us", _US),
)

# monitoring: one value of one objective over one window; n rows, of which `covered` had what the objective needs; interval [low, high]
observation = _t(
    "observation",
    _c("service", _NAME, key=True),
    _c("version", _INT, key=True),
    _c("objective", _NAME, key=True),
    _c("from_us", _US, key=True),
    _c("until_us", _US, key=True),
    _c("value", _NUM, null=True),
    _c("low", _NUM, null=True),
    _c("high", _NUM, null=True),
    _c("n", sa.BigInteger()),
    _c("covered", sa.BigInteger()),
    _c("body", _JSON),
    _c("at_us", _US),
)
# mergeable profiles: subject is table:NAME, baseline:SERVICE/VERSION or served:SERVICE/VERSION
profile = _t(
    "profile",
    _c("subject", _NAME, key=True),
    _c("from_us", _US, key=True),
    _c("until_us", _US, key=True),
    _c("rows", sa.BigInteger()),
    _c("body", LONG_BYTES),
    _c("at_us", _US),
)

# versions of feature views, numbered by first sight; `digest` is what one means, `body` the same in words
view_version = _t(
    "view_version",
    _c("view", _NAME, key=True),
    _c("number", _INT, key=True),
    _c("digest", _NAME),
    _c("body", _JSON),
    _c("at_us", _US),
    _c("published_us", _US, null=True),
    _c("deprecated_us", _US, null=True),
    _c("dropped_us", _US, null=True),
    _c("reason", sa.Text(), null=True),
    sa.Index("view_version_digest", "digest", unique=True),
)

# parity reports, view freshness and other latest-value facts; also cursors of the loop
state = _t("state", _c("name", _NAME, key=True), _c("value", _JSON), _c("at_us", _US))

# access tokens: only the hash is kept
token = _t("token", _c("hash", _NAME, key=True), _c("name", _NAME), _c("role", _NAME), _c("at_us", _US))
