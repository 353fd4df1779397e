"""The one place where an error becomes a status code.

    InvalidError 400 · NotFoundError 404 · ConflictError 409 · RefusedError 403 · UnavailableError 503

Every answer that is not a success is {"error", "hint"}: what happened, and what to do next. A bug is a 500 without its stack trace,
which goes to the log instead.
"""

import logging
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from tidemill.core.errors import ConflictError, InvalidError, LedgerGoneError, NotFoundError, RefusedError, TidemillError, UnavailableError

logger = logging.getLogger(__name__)

_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}
ErrorPage = Callable[[Request, int, str, str], Response]
GonePage = Callable[[Request, LedgerGoneError], Response]

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
    headers = _HEADERS.get(status)
    return JSONResponse({"error": error, "hint": hint}, status_code=status, headers=headers)


def _respond(request: Request, status: int, error: str, hint: str) -> Response:
    page: ErrorPage | None = getattr(request.app.state, "error_page", None)
    if page is not None and _for_people(request):
        return page(request, status, error, hint)
    return answer(status, error, hint)


def _for_people(request: Request) -> bool:
    return not request.url.path.startswith(("/api/", "/healthz", "/static/"))


def install(app: FastAPI) -> None:
    """Map errors to answers on `app`: JSON, or for the console's paths what `app.state.error_page` draws, and `gone_page` while the ledger is gone."""

    @app.exception_handler(TidemillError)
    async def _ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, TidemillError)
        if isinstance(error, LedgerGoneError):
            request.app.state.gone.state(error)
            page: GonePage | None = getattr(request.app.state, "gone_page", None)
            if page is not None and _for_people(request):
                return await run_in_threadpool(page, request, error)
        return _respond(request, status_of(error)[0], *split(error))

    @app.exception_handler(RequestValidationError)
    async def _shape(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _respond(request, 400, f"{where}: {first['msg']}", "see /api/v1/openapi.json for the shape of this request")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = f"{request.method} {request.url.path}: {error.detail}"
        return _respond(request, error.status_code, said, "see /api/v1/openapi.json for what there is")

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        logger.error("api.failed", extra={"path": request.url.path}, exc_info=error)
        return answer(500, "something went wrong in the server", "this is a bug; the server's log has the details")
