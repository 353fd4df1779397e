"""A ledger in a MySQL or MariaDB database."""

from __future__ import annotations

import pymysql
import sqlalchemy as sa

from tidemill.core import secrets


def connect(url: str) -> sa.Engine:
    """An engine for `mysql://[user[:reference]@]host[:port]/database`; what PyMySQL knows (`ssl_ca`, `unix_socket` …) may follow.

    Raises `ConfigError` for a password that is no reference, or one that names nothing.
    """
    given = sa.make_url(url)
    password = secrets.resolve(given.password, "stack.ledger") if given.password else None
    return sa.create_engine(
        given.set(drivername="mysql+pymysql", password=password).update_query_dict({"charset": "utf8mb4"}),
        module=pymysql,
        connect_args={"connect_timeout": 10, "init_command": "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"},
        isolation_level="REPEATABLE READ",
        pool_pre_ping=True,
        pool_size=8,
        max_overflow=-1,
    )
