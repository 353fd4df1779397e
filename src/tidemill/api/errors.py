"""The one place where an error becomes a status code.

    InvalidError 400 · NotFoundError 404 · ConflictError 409 · RefusedError 403 · UnavailableError 503

Every answer that is not a success is {"error", "hint"}: what happened, and what to do next. A bug is a 500 without its stack trace,
which goes to the log instead.
"""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from tidemill.core.errors import ConflictError, InvalidError, NotFoundError, RefusedError, TidemillError, UnavailableError

logger = logging.getLogger(__name__)

STATUS: tuple[tuple[type[TidemillError], int, str], ...] = (
    (InvalidError, 400, "change the request; the same one will fail again"),
    (NotFoundError, 404, "check the name; listings show what exists"),
    (ConflictError, 409, "read the current state, then decide again"),
    (RefusedError, 403, "policy forbids this; ask an admin"),
    (UnavailableError, 503, "try again in a moment; nothing was lost"),
)


class UnauthenticatedError(RefusedError):
    """No token, or one that nobody made. A browser or client may try again with one, so it is 401 and not 403."""


def status_of(error: TidemillError) -> tuple[int, str]:
    """Status code and hint of an error."""
    if isinstance(error, UnauthenticatedError):
        return 401, "send 'Authorization: Bearer TOKEN'; `tidemill up` shows the token at its first start"
    for kind, status, hint in STATUS:
        if isinstance(error, kind):
            return status, hint
    return 500, "this is a bug; the server's log has the details"


def split(error: TidemillError) -> tuple[str, str]:
    """A message as (error, hint): our messages carry their next step behind a semicolon."""
    head, _, tail = str(error).partition("; ")
    return head, tail or status_of(error)[1]


def answer(status: int, error: str, hint: str) -> JSONResponse:
    """The body of every refusal."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": error, "hint": hint}, status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Map errors to answers on `app`."""

    @app.exception_handler(TidemillError)
    async def _ours(_request: Request, error: Exception) -> Response:
        assert isinstance(error, TidemillError)
        message, hint = split(error)
        return answer(status_of(error)[0], message, hint)

    @app.exception_handler(RequestValidationError)
    async def _shape(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return answer(400, f"{where}: {first['msg']}", "see /api/v1/openapi.json for the shape of this request")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answer(
            error.status_code, f"{request.method} {request.url.path}: {error.detail}", "see /api/v1/openapi.json for what there is"
        )

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        logger.error("api.failed", extra={"path": request.url.path}, exc_info=error)
        return answer(500, "something went wrong in the server", "this is a bug; the server's log has the details")
