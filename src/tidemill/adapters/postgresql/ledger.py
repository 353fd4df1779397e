"""A ledger in a PostgreSQL database."""

from __future__ import annotations

import psycopg
import sqlalchemy as sa

from tidemill.core import secrets


def connect(url: str) -> sa.Engine:
    """An engine for `postgresql://[user[:reference]@]host[:port]/database`; what libpq knows (`sslmode`, `connect_timeout` …) may follow.

    Raises `ConfigError` for a password that is no reference, or one that names nothing.
    """
    given = sa.make_url(url)
    password = secrets.resolve(given.password, "stack.ledger") if given.password else None
    return sa.create_engine(
        given.set(drivername="postgresql+psycopg", password=password),
        module=psycopg,
        connect_args={"application_name": "tidemill", "connect_timeout": 10, **given.query},
        isolation_level="REPEATABLE READ",
        pool_pre_ping=True,
        pool_size=8,
        max_overflow=-1,
    )
