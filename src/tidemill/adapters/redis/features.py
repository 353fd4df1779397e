"""The online store on a Redis server: any number of processes on any number of machines read while one writes.

Keys, all of them behind `tidemill:{PROJECT}:` (the braces keep a project in one slot):
    meta        hash: `at` (where the store stands: its incarnation and the number of writes), `vVIEW` for each view that was
                written, `cNAME` for each cursor
    sN:VIEW:KEY a state; N is the length of VIEW. It expires by itself (PXAT) when the server's time says so
    iVIEW       sorted set, the index of a view: `kKEY` for each state, scored by when it is due, and `e`
    wN          states of a large write on their way in

The score of a state is its `expires_us` when it expires by itself, minus that when only `sweep` takes it (a project whose clock
stands in the past), and infinity when it stays. So a state that is missing before its time was lost, and so is an index without `e`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

import redis

from tidemill.adapters.redis import scripts
from tidemill.adapters.redis.client import Address, Client, parse
from tidemill.core.errors import InvalidError, LostError
from tidemill.features.ports import MAX_STATE_BYTES

_UNKNOWN = b"?"
_PIECE = 1000
_READ = 4000
"""Keys of one script call: the server answers others in between, and the first answer comes soon. A read may be many of them."""
_STAGE_BYTES = 64 << 20
_MS = 1000
_REPAIR = "run `tidemill features materialize`"
_T = TypeVar("_T")
_States = Mapping[tuple[str, str], bytes]


class RedisOnlineStore:
    """An `OnlineStore` on a Redis server (6.2 or newer).

    A write is one MULTI/EXEC transaction, which a reader sees whole or not at all and the server's append-only file holds whole or
    not at all. Above `stage_bytes` the states are sent ahead under other keys, and the transaction only renames them. Whether what
    `write` returned for survives the death of the server is the server's setting: `appendonly yes`.
    """

    def __init__(self, address: Address, *, stage_bytes: int = _STAGE_BYTES) -> None:
        self._client = Client(address)
        self._stage_bytes = stage_bytes
        self._base = f"tidemill:{{{address.project}}}:"
        self._meta, self._state, self._index, self._way = (self._base + name for name in ("meta", "s", "i", "w"))
        self._heads: dict[str, str] = {}
        self._lock = threading.Lock()
        self._left: bytes | None = _UNKNOWN
        self._tried: bytes | None = None
        self._seen = (b"", 0)
        self._seen_at: bytes | None = None
        self._sha = ""

    # reading

    def read(self, keys: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """States of (view, key)."""
        if not keys:
            return []
        names = [self._name(view, key) for view, key in keys]
        answers = self._ask(names, _READ)
        if len(answers) > 1 and any(a[0] != answers[0][0] for a in answers):
            answers = self._ask(names, len(names))  # somebody wrote in between
        found: list[bytes | None] = []
        for at, lost, *states in answers:
            if at is None or at != self._seen_at:
                self._look(at, any(s is not None for s in states))
            if lost is not None:
                raise LostError(f"Redis at {self._shown} has lost the state {lost.decode(errors='replace')!r} (evicted?); {_REPAIR}")
            found += states
        return found

    def _name(self, view: str, key: str) -> str:
        head = self._heads.get(view)
        if head is None:
            head = self._heads[view] = f"{self._state}{len(view.encode())}:{view}:"
        return head + key

    def _ask(self, names: Sequence[str], size: int) -> list[Any]:
        def commands() -> list[tuple[Any, ...]]:
            tail = (self._state, self._index)
            if len(names) <= size:
                return [("EVALSHA", self._sha, len(names) + 1, self._meta, *names, *tail)]
            return [("EVALSHA", self._sha, len(some) + 1, self._meta, *some, *tail) for some in _pieces(names, size)]

        try:
            return self._client.ask(commands())
        except redis.ResponseError as error:
            if self._sha and not isinstance(error, redis.exceptions.NoScriptError):
                raise self._client.unavailable(error) from error
        try:
            self._sha = self._client.ask([("SCRIPT", "LOAD", scripts.READ)])[0].decode()
            return self._client.ask(commands())
        except redis.ResponseError as error:
            raise self._client.unavailable(error) from error

    def _look(self, at: bytes | None, found: bool) -> None:
        """Compare where the store stands with where it stood; `found`: whether there are states although it stands nowhere."""
        if at is None:
            if found or self._seen_at is not None or self._left not in (None, _UNKNOWN):
                raise LostError(f"Redis at {self._shown} has lost what was written to it (flushed?); {_REPAIR}")
            return
        incarnation, _, number = at.partition(b":")
        if incarnation == self._seen[0] and int(number) < self._seen[1]:
            raise LostError(f"Redis at {self._shown} has come back with an older copy of its data; {_REPAIR}")
        self._seen, self._seen_at = (incarnation, int(number)), at

    @property
    def _shown(self) -> str:
        return self._client.address.shown

    def cursors(self) -> dict[str, str]:
        """All cursors."""
        with self._client.patient() as server:
            fields: dict[bytes, bytes] = server.hgetall(self._meta)
        if self._left == _UNKNOWN:
            self._left = fields.get(b"at")
        return {name[1:].decode(): value.decode() for name, value in fields.items() if name[:1] == b"c"}

    # writing

    def write(self, states: _States, cursors: Mapping[str, str], expires_us: Mapping[tuple[str, str], int] | None = None) -> None:
        """Replace states and cursors in one transaction."""
        size = _check(states)
        with self._lock, self._client.patient() as server, server.pipeline() as pipe:
            self._drop_staged(server)
            pipe.watch(self._meta)
            before = pipe.hget(self._meta, "at")
            after = self._next(before)
            seconds, micros = server.time()
            ahead = size > self._stage_bytes
            commands = list(self._commands(states, expires_us or {}, seconds * 1_000_000 + micros))
            if ahead:
                commands = self._send_ahead(server, commands)
            pipe.multi()
            for command in commands:
                pipe.execute_command(*command)
            pipe.hset(self._meta, mapping=self._marks(states, cursors, after))
            if ahead:
                pipe.delete(self._way)
            self._tried = after
            try:
                pipe.execute()
            except redis.WatchError as error:
                raise self._changed() from error
            self._left, self._tried = after, None

    def _next(self, before: bytes | None) -> bytes:
        """Where the store stands after this write. Raises `LostError` when it is not as this writer left it."""
        if before is not None and before == self._tried:
            self._left = before
        if self._left != _UNKNOWN and before != self._left:
            raise self._changed()
        if before is None:
            return f"{uuid4().hex[:12]}:1".encode()
        incarnation, _, number = before.partition(b":")
        return b"%s:%d" % (incarnation, int(number) + 1)

    def _changed(self) -> LostError:
        self._left, self._tried = _UNKNOWN, None
        return LostError(
            f"Redis at {self._shown} is not as this process left it (flushed, an older copy, or another writer); nothing was written; {_REPAIR}"
        )

    def _commands(self, states: _States, expires_us: Mapping[tuple[str, str], int], now_us: int) -> Iterator[tuple[Any, ...]]:
        members: dict[str, list[Any]] = {}
        for place, body in states.items():
            due = expires_us.get(place)
            name = self._name(*place)
            index = members.setdefault(place[0], ["inf", "e"])
            if due is not None and due > now_us:
                yield "SET", name, body, "PXAT", -(-due // _MS)
                index += (due, "k" + place[1])
            else:
                yield "SET", name, body
                index += ("inf" if due is None else -due, "k" + place[1])
        for view, scored in members.items():
            for some in _pieces(scored, 2 * _PIECE):
                yield "ZADD", self._index + view, *some

    def _marks(self, states: _States, cursors: Mapping[str, str], after: bytes) -> dict[str, Any]:
        marks: dict[str, Any] = {"v" + view: 1 for view, _ in states}
        marks |= {"c" + name: value for name, value in cursors.items()}
        return marks | {"at": after}

    def _send_ahead(self, server: Any, commands: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Send the states of a large write under keys that nobody reads; what remains is a transaction of names."""
        rest: list[tuple[Any, ...]] = []
        server.set(self._way, len(commands))
        for some in _pieces(enumerate(commands), _PIECE):
            with server.pipeline(transaction=False) as pipe:
                for i, command in some:
                    if command[0] == "SET":
                        pipe.execute_command("SET", f"{self._way}{i}", *command[2:])
                        rest.append(("RENAME", f"{self._way}{i}", command[1]))
                    else:
                        rest.append(command)
                pipe.execute()
        return rest

    def _drop_staged(self, server: Any) -> None:
        """Forget what a writer that died had sent ahead."""
        count = server.get(self._way)
        if count is None:
            return
        for some in _pieces(range(int(count)), _PIECE):
            server.unlink(*(f"{self._way}{i}" for i in some))
        server.delete(self._way)

    # forgetting

    def clear(self, view: str) -> None:
        """Forget all keys and the cursor of a view, a thousand at a time."""
        with self._lock, self._client.patient() as server:
            server.hdel(self._meta, "c" + view)
            while members := [m for m in server.zrange(self._index + view, 0, _PIECE - 1) if m != b"e"]:
                self._forget(server, view, members)
            with server.pipeline() as pipe:
                pipe.unlink(self._index + view)
                pipe.hdel(self._meta, "v" + view)
                pipe.execute()

    def sweep(self, now_us: int) -> int:
        """Forget the states that are due."""
        count = 0
        with self._lock, self._client.patient() as server:
            views = self._views(server)
            while views:
                with server.pipeline(transaction=False) as pipe:
                    for view in views:
                        pipe.zrangebyscore(self._index + view, -now_us, now_us, 0, _PIECE)
                    found = [(view, members) for view, members in zip(views, pipe.execute(), strict=True) if members]
                for view, members in found:
                    self._forget(server, view, members)
                    count += len(members)
                views = [view for view, members in found if len(members) == _PIECE]
        return count

    def _forget(self, server: Any, view: str, members: Iterable[bytes]) -> None:
        with server.pipeline() as pipe:
            pipe.unlink(*(self._name(view, m[1:].decode()) for m in members))
            pipe.zrem(self._index + view, *members)
            pipe.execute()

    def _views(self, server: Any) -> list[str]:
        return [name[1:].decode() for name in server.hkeys(self._meta) if name[:1] == b"v"]

    def lost(self) -> list[str]:
        """Views some of whose states were lost."""
        with self._client.patient() as server:
            seconds, micros = server.time()
            now = seconds * _MS + micros // _MS
            return [view for view in self._views(server) if self._is_lost(server, view, now)]

    def _is_lost(self, server: Any, view: str, now_ms: int) -> bool:
        index = self._index + view
        if server.zscore(index, "e") is None:
            return True
        count = server.register_script(scripts.LOST)
        for some in _pieces(server.zscan_iter(index, count=_PIECE), _PIECE):
            scored = [part for member, due in some if member != b"e" for part in (member, repr(due))]
            if scored and count(keys=[index], args=[self._name(view, ""), now_ms, *scored]):
                return True
        return False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _pieces(items: Iterable[_T], size: int) -> Iterator[tuple[_T, ...]]:
    stream = iter(items)
    while some := tuple(islice(stream, size)):
        yield some


def _check(states: _States) -> int:
    size = 0
    for (view, key), body in states.items():
        if not isinstance(body, bytes):
            raise InvalidError(f"the state of {view!r} {key!r} is {type(body).__name__}; states are bytes")
        if len(body) > MAX_STATE_BYTES:
            raise InvalidError(f"the state of {view!r} {key!r} has {len(body)} bytes; a state has {MAX_STATE_BYTES} at most")
        size += len(body)
    return size


def open_online(url: str, project: str) -> RedisOnlineStore:
    """The store that a `redis://` or `rediss://` URL names, for a project."""
    return RedisOnlineStore(parse(url, project))
