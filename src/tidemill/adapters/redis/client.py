"""Where a Redis server is and how to talk to it: the URL, connections with short or long patience, errors in our words."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakSet

import hiredis
import redis
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from tidemill.core import secrets
from tidemill.core.errors import ConfigError, UnavailableError
from tidemill.core.instants import SECOND_US, parse_duration

_OPTIONS = ("db", "password", "project", "timeout", "ca")
_TIMEOUT_S = 0.25
_WRITING_S = 60.0


@dataclass(frozen=True, slots=True)
class Address:
    """A URL `redis://[user:reference@]host:port/db?project=NAME&timeout=250ms`, read. `shown` is the URL without its password."""

    shown: str
    project: str
    options: dict[str, Any] = field(repr=False)
    kind: type[Connection | SSLConnection | UnixDomainSocketConnection] = Connection
    timeout_s: float = _TIMEOUT_S


def parse(url: str, project: str, setting: str = "stack.online") -> Address:
    """Read a URL.

    Args:
        url: `redis://`, with TLS `rediss://` (`ca=PATH` names the authority's certificate), or `redis:///path/to.sock?db=0`. The
            password is a reference, in the URL's place for it or as `password=env:NAME`; `timeout` is how long a read may take.
        project: names the keys unless the URL has `project=`.
        setting: named in errors.

    Raises:
        ConfigError: it cannot be read; names the setting and never shows a password.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(given) - set(_OPTIONS)):
        raise ConfigError(f"{setting}: a Redis URL has no {', '.join(unknown)}; it may have {', '.join(_OPTIONS)}")
    reference = given.get("password") or unquote(parts.password or "")
    options: dict[str, Any] = {"protocol": 2}
    if reference:
        options["password"] = secrets.resolve(reference, setting)
    if parts.username:
        options["username"] = unquote(parts.username)
    shown = f"{parts.scheme}://{(parts.netloc.rpartition('@')[2])}{parts.path}"
    try:
        path, port = unquote(parts.path).strip("/"), parts.port
        socket = not parts.netloc and path and not path.isdecimal()
        options["db"] = int(given.get("db") or (path if path and not socket else 0))
        timeout_s = parse_duration(given["timeout"]) / SECOND_US if given.get("timeout") else _TIMEOUT_S
    except ValueError as error:
        raise ConfigError(f"{setting}: {shown} cannot be read ({error}); write redis://host:port/db") from error
    kind: Any = Connection
    if socket:
        kind, options["path"] = UnixDomainSocketConnection, "/" + path
    else:
        options |= {"host": parts.hostname or "localhost", "port": port or 6379}
    if parts.scheme == "rediss":
        kind = SSLConnection
        if given.get("ca"):
            options["ssl_ca_certs"] = given["ca"]
    return Address(shown, given.get("project") or project, options, kind, timeout_s)


class Client:
    """Talks to one server: `ask` for short questions from many threads, `patient` for transactions."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._local = threading.local()
        self._opened: WeakSet[Any] = WeakSet()
        pool = redis.ConnectionPool(
            connection_class=address.kind, socket_timeout=_WRITING_S, socket_connect_timeout=address.timeout_s, **address.options
        )
        self._patient: Any = redis.Redis(connection_pool=pool)

    @contextmanager
    def patient(self) -> Iterator[Any]:  # the library's types change from version to version
        """A client that waits a minute for large transactions. Server errors become `UnavailableError`."""
        try:
            yield self._patient
        except redis.WatchError:
            raise
        except (redis.RedisError, OSError) as error:
            raise self.unavailable(error) from error

    def ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one go and return their answers; asks once more on a new connection when the old one was closed.

        Raises:
            UnavailableError: no answer within the address's timeout, or none at all.
            ResponseError: what the server answered to a command.
        """
        packed = b"".join(map(hiredis.pack_command, commands))
        local = self._local
        connection = getattr(local, "connection", None)
        if connection is None:
            connection = self._connect()
        elif local.live:
            try:
                return _exchange(connection, packed, len(commands))
            except redis.ResponseError:
                connection.disconnect()
                raise
            except redis.TimeoutError as error:
                local.live = False
                raise self.unavailable(error) from error
            except (redis.RedisError, OSError):
                local.live = False
        try:
            answers = _exchange(connection, packed, len(commands))
        except redis.ResponseError:
            connection.disconnect()
            raise
        except (redis.RedisError, OSError) as error:
            raise self.unavailable(error) from error
        local.live = True
        return answers

    def _connect(self) -> Any:
        address = self.address
        connection = address.kind(socket_timeout=address.timeout_s, socket_connect_timeout=address.timeout_s, **address.options)
        self._local.connection, self._local.live = connection, False
        self._opened.add(connection)
        return connection

    def unavailable(self, error: Exception) -> UnavailableError:
        """What to raise for an error of the library."""
        if isinstance(error, redis.ResponseError | redis.AuthenticationError):
            return UnavailableError(f"Redis at {self.address.shown} refuses: {error}")
        return UnavailableError(f"Redis at {self.address.shown} does not answer ({type(error).__name__}); start it, then ask again")

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._opened):
            connection.disconnect()
        self._patient.close()


def _exchange(connection: Any, packed: bytes, count: int) -> list[Any]:
    connection.send_packed_command([packed], check_health=False)
    return [connection.read_response(disable_decoding=True) for _ in range(count)]
