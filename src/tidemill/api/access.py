"""Who is asking: a bearer token, or the console's cookie that holds one, and the role it stands for.

Roles are the paper's. Reading needs any role; each write names the action that a role must allow. A cookie counts for a write only when the
browser says that the request came from our own pages, so another site cannot make it (SameSite=Strict is the first fence, this the second).
"""

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request

from tidemill.api.errors import UnauthenticatedError
from tidemill.core.errors import RefusedError
from tidemill.serving.tokens import Access, Action

COOKIE = "tidemill_token"
_SAFE = ("GET", "HEAD", "OPTIONS")
_BROWSER_SAYS_OURS = ("same-origin", "none")


def token_of(request: HTTPConnection) -> tuple[str, bool]:
    """The token of a request and whether it came by cookie; ("", False) without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip(), False
    return request.cookies.get(COOKIE, ""), True


def from_our_pages(request: HTTPConnection) -> bool:
    """Whether a browser vouches that its own page for this host made the request."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in _BROWSER_SAYS_OURS
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


def access_of(request: Request) -> Access:
    """Who made a request. Raises `UnauthenticatedError`; `RefusedError` for a cookie sent by another site."""
    token, by_cookie = token_of(request)
    found: Access | None = request.app.state.verify(token) if token else None
    if found is None:
        raise UnauthenticatedError("this needs a token, and the request has none that is known here")
    if by_cookie and request.method not in _SAFE and not from_our_pages(request):
        raise RefusedError("the request came from another site; open the console itself and try there")
    return found


def allow(action: Action) -> Callable[[Request], Access]:
    """A dependency that lets those pass whose role allows `action`, and answers who it is."""

    def check(request: Request) -> Access:
        access = access_of(request)
        access.require(action)
        return access

    return check
