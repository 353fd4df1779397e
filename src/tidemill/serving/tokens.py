"""Access tokens: shown once, stored as a hash, each with one of the five roles of the paper."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Literal, cast, get_args

import sqlalchemy as sa

from tidemill.core.clock import Clock
from tidemill.core.errors import InvalidError, LedgerGoneError, RefusedError, not_found
from tidemill.core.instants import SECOND_US
from tidemill.ledger.schema import token
from tidemill.ledger.store import Ledger, emit, insert_once

AccessRole = Literal["viewer", "data-scientist", "data-engineer", "ml-engineer", "admin"]
Action = Literal["read", "predict", "ingest", "run", "deploy", "administer", "reveal"]
ROLES: tuple[AccessRole, ...] = get_args(AccessRole)
ALLOWED: dict[AccessRole, frozenset[Action]] = {
    "viewer": frozenset({"read"}),
    "data-scientist": frozenset({"read", "predict", "run"}),
    "data-engineer": frozenset({"read", "predict", "ingest", "run", "reveal"}),
    "ml-engineer": frozenset({"read", "predict", "ingest", "run", "deploy"}),
    "admin": frozenset({"read", "predict", "ingest", "run", "deploy", "administer", "reveal"}),
}
_PREFIX = "tm_"
_SHORTEST = 24
_PATIENCE_S, _AGAIN_S = 1.0, 0.5
"""How long a request waits for the ledger, at most once while it is gone; and how soon it is asked again then."""


@dataclass(frozen=True, slots=True)
class Access:
    """Whose token it is and what it allows."""

    name: str
    role: AccessRole

    def may(self, action: Action) -> bool:
        """Whether this role allows `action`."""
        return action in ALLOWED[self.role]

    def require(self, action: Action) -> None:
        """Raise `RefusedError` unless this role allows `action`."""
        if not self.may(action):
            able = ", ".join(role for role in ROLES if action in ALLOWED[role])
            raise RefusedError(f"the token {self.name!r} has role {self.role}, which may not {action}; roles that may: {able}")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Tokens:
    """Makes and verifies tokens. Verified against a copy of the hashes that is at most `ttl_us` old, and that is made anew when half of that has passed.

    While the ledger is gone, the last copy holds, for `trust_us` if that is given: who was known is known, also whose token was revoked meanwhile. The ledger is read by a thread of its own, so that whoever verifies
    a token waits for a moment at most, whatever the ledger's disk or server does.

    Secrets are 256 random bits, so one SHA-256 is enough: there is nothing to guess from a dictionary.
    """

    def __init__(self, ledger: Ledger, clock: Clock, *, ttl_us: int = 2 * SECOND_US, trust_us: int | None = None) -> None:
        self._ledger = ledger
        self._clock = clock
        self._ttl_us, self._trust_us = ttl_us, trust_us
        self._lock = threading.Lock()
        self._known: dict[str, Access] = {}
        self._read_us = -1
        self._reading: _Reading | None = None
        self._gone: LedgerGoneError | None = None
        self._hangs = False
        self._again = 0.0

    def make(self, name: str, role: str = "admin", *, actor: str = "tidemill") -> str:
        """Make a token and return its secret, which is not kept. A name that is taken gets a second token beside the first."""
        if role not in ROLES:
            raise not_found("role", role, ROLES)
        if not name or len(name) > 100:
            raise InvalidError("a token needs a name of 1 to 100 characters, such as the person or program it is for")
        secret = _PREFIX + secrets.token_urlsafe(32)
        at_us = self._clock.now_us()
        with self._ledger.write() as db:
            insert_once(db, token, {"hash": _hash(secret), "name": name, "role": role, "at_us": at_us})
            emit(db, "token.made", name, {"role": role, "hash": _hash(secret)[:12]}, at_us=at_us, actor=actor)
        self._read_us = -1
        return secret

    def accept(self, name: str, secret: str, role: str = "admin", *, actor: str = "tidemill") -> None:
        """Take a secret that somebody else made, for a program that is told it by its surroundings. Raises `InvalidError` for one that can be guessed."""
        if role not in ROLES:
            raise not_found("role", role, ROLES)
        if len(secret) < _SHORTEST or len(set(secret)) < _SHORTEST // 3:
            raise InvalidError(
                f"a token must have at least {_SHORTEST} characters that nobody can guess, for example from `openssl rand -hex 32`"
            )
        at_us = self._clock.now_us()
        with self._ledger.write() as db:
            insert_once(db, token, {"hash": _hash(secret), "name": name, "role": role, "at_us": at_us})
            emit(db, "token.accepted", name, {"role": role, "hash": _hash(secret)[:12]}, at_us=at_us, actor=actor)
        self._read_us = -1

    def revoke(self, name: str, *, actor: str = "tidemill") -> int:
        """Take back all tokens of a name; servers forget them within the ttl. Raises `NotFoundError`."""
        at_us = self._clock.now_us()
        with self._ledger.write() as db:
            gone = db.execute(sa.delete(token).where(token.c.name == name)).rowcount
            if not gone:
                raise not_found("token", name, [str(n) for n in db.execute(sa.select(token.c.name)).scalars()])
            emit(db, "token.revoked", name, {"tokens": gone}, at_us=at_us, actor=actor)
        self._read_us = -1
        return int(gone)

    def listed(self) -> list[Access]:
        """All tokens, without their secrets, by name."""
        with self._ledger.read() as db:
            rows = db.execute(sa.select(token.c.name, token.c.role).order_by(token.c.name)).all()
        return [Access(str(name), cast("AccessRole", role)) for name, role in rows]

    def verify(self, secret: str | None) -> Access | None:
        """Whose secret this is, or None. Raises `LedgerGoneError` when it is not known here, or not for `trust_us`, and the ledger cannot be asked."""
        if not secret:
            return None
        wanted = _hash(secret)
        found, age_us = self._find(wanted), self._clock.now_us() - self._read_us
        # one that is not known was maybe made a moment ago
        if self._read_us >= 0 and age_us <= (self._ttl_us if found is not None else SECOND_US // 10):
            if age_us >= self._ttl_us // 2:
                self._begin()  # so that nobody waits for it later
            return found
        gone = self._renew()
        found = self._find(wanted)
        if gone is not None and (found is None or self._too_old()):
            raise LedgerGoneError(f"whose token this is cannot be told, because the ledger does not answer: {gone}") from gone
        return found

    def _too_old(self) -> bool:
        return self._trust_us is not None and self._clock.now_us() - self._read_us > self._trust_us

    def _find(self, wanted: str) -> Access | None:
        found: Access | None = None
        for known, access in self._known.items():
            if hmac.compare_digest(known, wanted):
                found = access
        return found

    def _begin(self) -> _Reading | None:
        """The reading of the hashes that is under way; begun now if none is, unless the ledger is gone and was asked a moment ago."""
        with self._lock:
            if self._gone is not None and (self._reading is not None or monotonic() < self._again):
                return None
            if self._reading is None:
                self._reading = _Reading(self)
                self._reading.start()
            return self._reading

    def _renew(self) -> LedgerGoneError | None:
        """Read the hashes again; says why not, when the ledger does not answer. Once it has hung, nobody waits for it any more."""
        reading = self._begin()
        if reading is None:
            return self._gone
        if not self._hangs and not reading.done.wait(max(0.0, reading.until - monotonic())):
            with self._lock:
                if self._reading is reading:
                    self._hangs, self._gone = True, LedgerGoneError(f"no answer within {_PATIENCE_S:g} s")
        return self._gone

    def _read(self) -> None:
        now, gone = self._clock.now_us(), None
        try:
            with self._ledger.read() as db:
                rows = db.execute(sa.select(token.c.hash, token.c.name, token.c.role)).all()
            self._known = {str(h): Access(str(name), cast("AccessRole", role)) for h, name, role in rows if role in ALLOWED}
            self._read_us = now
        except LedgerGoneError as error:
            gone = error
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the ledger, who was known is known
            gone = LedgerGoneError(repr(error))
        with self._lock:
            self._gone, self._again, self._reading, self._hangs = gone, monotonic() + _AGAIN_S, None, False


class _Reading(threading.Thread):
    """One reading of the hashes. Daemon: a ledger that never answers does not keep the process."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__(name="tidemill-tokens", daemon=True)
        self.done, self.until = threading.Event(), monotonic() + _PATIENCE_S
        self._tokens = tokens

    def run(self) -> None:
        self._tokens._read()
        self.done.set()
