"""Which other sites' pages may ask this server from a browser: none, but for those that are named.

Source: the Fetch standard, "HTTP-CORS protocol". Credentials of the browser (cookies) are never asked for: whoever asks sends a token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import urlsplit

from tidemill.core.errors import ConfigError
from tidemill.serving.http import Http, Reply

METHODS, MAX_AGE_S = ("GET", "POST"), 600
HEADERS = (
    "authorization", "content-type", "accept", "content-encoding", "inference-header-content-length", "tidemill-prediction-id",
    "traceparent", "tracestate", "x-envoy-expected-rq-timeout-ms",
)  # fmt: skip
EXPOSED = (
    "inference-header-content-length",
    "tidemill-logged",
    "tidemill-model-version",
    "tidemill-prediction-id",
    "traceparent",
    "retry-after",
)


def check_origins(origins: Sequence[str], setting: str) -> frozenset[str]:
    """The origins, as browsers write them. Raises `ConfigError` for what is none, and for `*`."""
    for origin in origins:
        parts = urlsplit(origin)
        if (
            parts.scheme not in ("http", "https")
            or origin != f"{parts.scheme}://{parts.netloc.lower()}"
            or "@" in origin
            or not parts.hostname
        ):
            raise ConfigError(f"{setting}: {origin!r} is no origin; name each site as browsers do, https://app.example.com, without a path")
    return frozenset(origins)


class Origins:
    """The sites that may ask."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed

    def preflight(self, method: str, headers: Mapping[str, str]) -> Reply | None:
        """The answer to a browser that asks whether a page may ask; None for any other request, and for a site that may not."""
        origin = headers.get("origin")
        if method != "OPTIONS" or origin not in self._allowed or headers.get("access-control-request-method") is None:
            return None
        told = [
            ("access-control-allow-methods", ", ".join(METHODS)),
            ("access-control-allow-headers", ", ".join(HEADERS)),
            ("access-control-max-age", str(MAX_AGE_S)),
        ]
        return 204, told, b""

    def around(self, http: Http, headers: Mapping[str, str]) -> Http:
        """The same request, whose answer says which site may read it."""
        origin = headers.get("origin")
        told = [("vary", "origin")]
        if origin in self._allowed:
            told += [("access-control-allow-origin", str(origin)), ("access-control-expose-headers", ", ".join(EXPOSED))]
        return Told(http, told)


class Told:
    """One request whose answer has further headers."""

    def __init__(self, http: Http, told: list[tuple[str, str]]) -> None:
        self._http, self._told = http, told

    async def __call__(self) -> bytes:
        """The whole body."""
        return await self._http()

    def __aiter__(self) -> AsyncIterator[bytes]:
        pieces: AsyncIterator[bytes] = self._http.__aiter__()
        return pieces

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer, with them."""
        self._http.response_bytes(status, [*headers, *self._told], body)
