"""Every error that Tidemill raises on purpose, in one tree.

    TidemillError
      InvalidError        the input is wrong; trying again unchanged fails again
        ConfigError       a configuration file or override is wrong; names the file and the key
      NotFoundError       what was named does not exist
      ConflictError       the state changed underneath; read again, then decide
      RefusedError        allowed inputs, but policy says no (pickle, missing token, unknown scheme)
        CorruptError      bytes do not have the digest they were stored under
      UnavailableError    a system behind a port does not answer; trying again is safe
        LostError         a store no longer has what was written to it; it has to be made anew
        LedgerGoneError   the ledger is moved away, cut off or locked, or its server is down; what runs goes on with what it knows

A message says what, which one, and the next step. No error knows of HTTP: `tidemill.api` and
`tidemill.serving` map them to status codes.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TidemillError(Exception):
    """The root: `except TidemillError` catches what Tidemill itself reports."""


class InvalidError(TidemillError, ValueError):
    """The input is wrong; the same input will fail again."""


class ConfigError(InvalidError):
    """A configuration value is unknown, missing or of the wrong type."""


class NotFoundError(TidemillError, LookupError):
    """The named thing does not exist."""


class ConflictError(TidemillError):
    """Somebody else changed the state first; nothing was written."""


class RefusedError(TidemillError):
    """Policy forbids it; nothing was done."""


class CorruptError(RefusedError):
    """Stored bytes do not match their digest; they are never used."""


class UnavailableError(TidemillError):
    """A system behind a port does not answer; retrying is safe."""


class LostError(UnavailableError):
    """A store has lost what was written to it (evicted, flushed, an older copy); making it anew helps."""


class LedgerGoneError(UnavailableError):
    """The ledger does not answer: its file is moved away, cut off or locked, or its server is down. What runs goes on with what it knows."""


def not_found(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    """Build a `NotFoundError` that offers the nearest known names."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3)
    if near:
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
    elif names:
        hint = f"known: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
    else:
        hint = f"there is no {kind} yet"
    return NotFoundError(f"no {kind} named {name!r}; {hint}")
