"""A link that logs in once: `tidemill up` prints it, the first browser that opens it gets a session, nobody else does.

Only the code's hash is kept, in the ledger, with when it ends; taking it deletes it in the same transaction.
"""

from __future__ import annotations

import hashlib
import secrets

from tidemill.core.clock import Clock
from tidemill.core.errors import RefusedError
from tidemill.core.instants import SECOND_US
from tidemill.ledger import schema
from tidemill.ledger.store import Ledger, fact, to_json

LASTS_US = 600 * SECOND_US


def _name(code: str) -> str:
    return f"login:{hashlib.sha256(code.encode()).hexdigest()}"


def issue(ledger: Ledger, clock: Clock, token: str) -> str:
    """Make a path that logs in with `token`, once, within ten minutes: `/login/once/CODE`.

    The token is stored encrypted with the code (a one-time pad of the code's digest), so the ledger alone reveals nothing.
    """
    code = secrets.token_urlsafe(24)
    now_us = clock.now_us()
    value = to_json({"ends_us": now_us + LASTS_US, "sealed": _pad(code, token.encode()).hex()})
    with ledger.write() as db:
        db.execute(schema.state.delete().where(schema.state.c.name.startswith("login:"), schema.state.c.at_us < now_us - LASTS_US))
        db.execute(schema.state.insert().values(name=_name(code), value=value, at_us=now_us))
    return f"/login/once/{code}"


def take(ledger: Ledger, clock: Clock, code: str) -> str:
    """The token behind a code, which is used up by this. Raises `RefusedError` for one that is unknown, used or too old."""
    name = _name(code)
    with ledger.write() as db:
        found = fact(db, name)
        db.execute(schema.state.delete().where(schema.state.c.name == name))
    if not isinstance(found, dict) or found["ends_us"] < clock.now_us():
        raise RefusedError("this login link was used already or is too old; take the token, or start `tidemill up` again")
    return _pad(code, bytes.fromhex(found["sealed"])).decode()


def _pad(code: str, data: bytes) -> bytes:
    pad = hashlib.shake_256(b"tidemill login " + code.encode()).digest(len(data))
    return bytes(a ^ b for a, b in zip(data, pad, strict=True))
