"""The defaults: labels in a SQLite file, observations in the ledger, alerts by webhook and in the ledger."""

from __future__ import annotations

import json
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
import sqlalchemy as sa

from tidemill.core.clock import Clock
from tidemill.core.definitions import Label
from tidemill.core.errors import InvalidError, RefusedError, UnavailableError
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, emit, from_json, to_json
from tidemill.monitoring.embedded.column import COLUMNS as _COLUMNS
from tidemill.monitoring.embedded.column import LabelColumn
from tidemill.monitoring.ports import LabelRow, Observation

_TABLE = """CREATE TABLE IF NOT EXISTS label_row (
    seq INTEGER PRIMARY KEY, label TEXT NOT NULL, key TEXT NOT NULL, value REAL,
    event_us INTEGER NOT NULL, known_us INTEGER NOT NULL, writer TEXT NOT NULL)"""
_ONCE = "CREATE UNIQUE INDEX IF NOT EXISTS label_once ON label_row (key, label, known_us, event_us, writer, ifnull(value, ''))"
_INSERT = "INSERT OR IGNORE INTO label_row (label, key, value, event_us, known_us, writer) VALUES (?, ?, ?, ?, ?, ?)"
_FRESH = """SELECT seq, key, value, event_us, known_us, writer,
    (SELECT min(first.seq) FROM label_row first WHERE first.key = row.key AND first.label = row.label)
    FROM label_row row WHERE seq > ? AND label = ? ORDER BY seq"""
_PIECE = 50_000
"""How many statements are read at once: as Python objects they take ten times the memory of their columns."""


class SqliteLabelStore:
    """A `LabelStore` in one SQLite file.

    The file is the truth (one fsynced transaction a write). Reading 300,000 rows of it into Python takes longer than a monitor may, so
    each label's columns are also kept in memory and caught up by row number before every answer, whoever wrote them.
    """

    def __init__(self, path: Path | str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(_TABLE)
        self._db.execute(_ONCE)
        self._columns: dict[str, LabelColumn] = {}

    def write(self, rows: Sequence[LabelRow] | pa.Table) -> int:
        with self._lock:
            before = self._db.total_changes
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(_INSERT, _tuples(rows))
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            return self._db.total_changes - before

    def as_of(self, label: str, at_us: int, *, from_event_us: int = 0, writers: Sequence[str] = ()) -> pa.Table:
        with self._lock:
            return self._caught_up(label).as_of(at_us, from_event_us, tuple(writers))

    def statements(self, label: str, at_us: int) -> pa.Table:
        with self._lock:
            return self._caught_up(label).statements(label, at_us)

    def _caught_up(self, label: str) -> LabelColumn:
        column = self._columns.setdefault(label, LabelColumn())
        found = self._db.execute(_FRESH, (column.seen, label))
        while fresh := found.fetchmany(_PIECE):
            column.extend(fresh)
        return column

    def history(self, label: str, key: str) -> list[LabelRow]:
        query = "SELECT label, key, value, event_us, known_us, writer FROM label_row WHERE key = ? AND label = ? ORDER BY known_us, seq"
        with self._lock:
            return [LabelRow(*row) for row in self._db.execute(query, (key, label))]

    def derive(self, label: Label, rows: pa.Table) -> pa.Table:
        return label_rows(label, rows)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _tuples(rows: Sequence[LabelRow] | pa.Table) -> Iterator[tuple[Any, ...]]:
    if not isinstance(rows, pa.Table):
        return ((r.label, r.key, _number(r.value), r.event_us, r.known_us, r.writer) for r in rows)
    if missing := [c for c in _COLUMNS if c not in rows.column_names]:
        raise InvalidError(f"label statements lack {', '.join(missing)}; they need {', '.join(_COLUMNS)}")
    columns = {name: rows.column(name).to_pylist() for name in _COLUMNS}
    columns["value"] = [_number(v) for v in columns["value"]]
    return zip(*columns.values(), strict=True)


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else float(value)


def label_rows(label: Label, rows: pa.Table) -> pa.Table:
    """Evaluate a label's expression over rows of its table, in DuckDB's SQL; times are UTC, without a zone.

    Raises:
        InvalidError: the expression or a column it needs is wrong.
    """
    table = label.table
    at = "CAST(epoch_us({}) AS BIGINT)"
    known = at.format(_quoted(table.known_time))
    query = (
        f"SELECT CAST({_quoted(label.key)} AS VARCHAR) AS key, CAST(({label.expression}) AS DOUBLE) AS value, "
        f"{at.format(_quoted(table.event_time))} AS event_us, {known} AS known_us FROM given WHERE {_quoted(label.key)} IS NOT NULL"
    )
    with _database().cursor() as db:
        db.register("given", _without_zones(rows))
        try:
            found: pa.Table = db.sql(query).to_arrow_table()
        except duckdb.Error as exc:
            raise InvalidError(f"label {label.name!r} cannot be read from table {table.name!r}: {exc}") from exc
    count = found.num_rows
    both = {"label": pa.array([label.name] * count, pa.string()), "writer": pa.array([f"table:{table.name}"] * count, pa.string())}
    return pa.table({name: both[name] if name in both else found.column(name) for name in _COLUMNS})


@lru_cache(maxsize=1)
def _database() -> duckdb.DuckDBPyConnection:
    """In memory, for expressions; opened once, which takes longer than a day's labels do."""
    return duckdb.connect(config={"threads": 1})


def _without_zones(rows: pa.Table) -> pa.Table:
    """Times as plain UTC: arithmetic on zoned ones needs an extension of DuckDB that is not in its wheel."""
    fields = [pa.field(f.name, pa.timestamp("us")) if pa.types.is_timestamp(f.type) else f for f in rows.schema]
    return rows.cast(pa.schema(fields))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class LedgerMetrics:
    """Observations in the ledger; a `MetricSink` and a `MetricSource`. A value survives a killed process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def write(self, observations: Sequence[Observation], *, at_us: int) -> None:
        if not observations:
            return
        table = schema.observation
        rows = [_record(observation, at_us) for observation in observations]
        same = [c == sa.bindparam(f"_{c.name}") for c in table.primary_key]
        keys = [{f"_{c.name}": row[c.name] for c in table.primary_key} for row in rows]
        with self._ledger.write(durable=False) as db:
            db.execute(sa.delete(table).where(*same), keys)
            db.execute(sa.insert(table), rows)

    def read(self, service: str, *, objective: str | None = None, version: int | None = None, from_us: int = 0) -> list[Observation]:
        table = schema.observation
        query = sa.select(table).where(table.c.service == service, table.c.until_us > from_us)
        if objective is not None:
            query = query.where(table.c.objective == objective)
        if version is not None:
            query = query.where(table.c.version == version)
        with self._ledger.read() as db:
            rows = db.execute(query.order_by(table.c.from_us, table.c.until_us, table.c.version, table.c.objective)).mappings().all()
        return [_observation(row) for row in rows]


def _record(o: Observation, at_us: int) -> dict[str, Any]:
    names = ("service", "version", "objective", "from_us", "until_us", "value", "low", "high", "n", "covered")
    return {name: getattr(o, name) for name in names} | {"body": to_json(o.body), "at_us": at_us}


def _observation(row: Any) -> Observation:
    return Observation(**{k: v for k, v in row.items() if k not in {"body", "at_us"}}, body=from_json(row["body"]))


class LedgerAlerts:
    """Alerts as events of kind `alert` in the ledger, where the console shows them."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def send(self, subject: str, body: Mapping[str, Any]) -> None:
        with self._ledger.write() as db:
            emit(db, "alert", subject, body, at_us=self._clock.now_us())


class WebhookAlerts:
    """Alerts as `POST {"subject", "body"}` in JSON to a URL; waits at most `timeout_s` seconds. Redirects are not followed."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise RefusedError(f"an alert goes to an http or https URL, not to {url.partition(':')[0]!r}")
        self._url = url
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, subject: str, body: Mapping[str, Any]) -> None:
        data = json.dumps({"subject": subject, "body": json.loads(to_json(body))}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self._url, data, headers, method="POST")  # noqa: S310 (the scheme was checked)
        try:
            with self._opener.open(request, timeout=self._timeout_s):
                pass
        except (urllib.error.URLError, TimeoutError, OSError) as exc:
            raise UnavailableError(
                f"the alert {subject!r} was not taken by {urlsplit(self._url).netloc}: {exc}; it may be sent again"
            ) from exc


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any) -> None:
        return None
