"""How a command ends: exit codes and the one line that says what went wrong."""

from tidemill.core.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    RefusedError,
    TidemillError,
    UnavailableError,
)

CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InvalidError, 2),
    (NotFoundError, 3),
    (RefusedError, 4),
    (UnavailableError, 5),
    (ConflictError, 1),
    (TidemillError, 1),
    (KeyboardInterrupt, 130),
)
MEANING = {
    0: "done",
    1: "the work failed, or the outcome is a rejection or a difference",
    2: "wrong usage or invalid input; trying again unchanged fails again",
    3: "what was named does not exist",
    4: "refused by policy (missing token, pickle, corrupted artifact)",
    5: "a system behind a port does not answer; trying again is safe",
    130: "interrupted from the keyboard",
}


def code_of(error: BaseException) -> int:
    """The exit code of an error; 1 for what Tidemill did not expect."""
    return next((code for kind, code in CODES if isinstance(error, kind)), 1)


def explain(error: BaseException) -> str:
    """One line for people. What is not a `TidemillError` is called a bug, because it is one."""
    text = " ".join(str(error).split())
    if isinstance(error, TidemillError):
        return f"error: {text}"
    return f"bug: {type(error).__name__}: {text}; please report it with the output of TIDEMILL_DEBUG=1 and the same command"
