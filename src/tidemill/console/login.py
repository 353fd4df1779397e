"""Logging in and out: the token goes into a cookie that scripts cannot read and other sites cannot send."""

from __future__ import annotations

from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from tidemill.api.access import COOKIE, access_of, from_our_pages
from tidemill.console import once
from tidemill.console.render import page, platform_of
from tidemill.core.errors import RefusedError

router = APIRouter(include_in_schema=False)
MAX_AGE_S = 30 * 86_400


def to_login(request: Request) -> Response:
    """Send to the login form, and back to where it was afterwards."""
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"/login?next={quote(request.url.path + query, safe='')}", status_code=303)


def _ours(path: str) -> str:
    """Only a path of this server is a place to go next."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and "\n" not in path else "/"


def _enter(request: Request, token: str, path: str) -> Response:
    response = RedirectResponse(_ours(path), status_code=303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, max_age=MAX_AGE_S, httponly=True, samesite="strict", secure=secure, path="/")
    return response


@router.get("/login")
def form(request: Request) -> Response:
    """Ask for a token."""
    return _form(request, _ours(request.query_params.get("next", "/")))


@router.post("/login")
async def enter(request: Request) -> Response:
    """Take a token."""
    if not from_our_pages(request):
        raise RefusedError("the login came from another site; open the console itself and try there")
    fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=8)
    token, path = fields.get("token", [""])[0].strip(), _ours(fields.get("next", ["/"])[0])
    if not token or request.app.state.verify(token) is None:
        return _form(request, path, wrong=True)
    return _enter(request, token, path)


def _form(request: Request, path: str, *, wrong: bool = False) -> Response:
    # without the ledger's time, which the form does not show: it opens also while the ledger is gone
    now_us = platform_of(request).clock.now_us()
    return page(request, "login.html", "login", code=401 if wrong else 200, wrong=wrong, next=path, now_us=now_us)


@router.get("/login/once/{code}")
def enter_once(request: Request, code: str) -> Response:
    """Follow the link that `tidemill up` printed."""
    platform = platform_of(request)
    return _enter(request, once.take(platform.ledger, platform.clock, code), "/")


@router.post("/logout")
def leave(request: Request) -> Response:
    """Forget the token."""
    access_of(request)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE, path="/")
    return response
