"""The HTTP API as one FastAPI application; the console is mounted on it."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from tidemill.api import errors
from tidemill.api.access import access_of
from tidemill.api.gone import LedgerGone
from tidemill.api.limits import LOCAL_HOSTS, MAX_BODY_BYTES, BodyLimit, KnownHosts
from tidemill.api.needs import Needs, Verify, Why
from tidemill.api.routes import data, decisions, events, features, loop, models, monitoring, runs
from tidemill.api.tidy import TidyResponse
from tidemill.serving.cors import METHODS

PREFIX = "/api/v1"


def build_api(
    platform: Needs,
    *,
    verify: Verify,
    why: Why,
    hosts: Sequence[str] = LOCAL_HOSTS,
    origins: Sequence[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """Build the application over a platform.

    Args:
        platform: whose ports the routes read.
        verify: answers whose token it is.
        why: assembles what is behind a prediction.
        hosts: Host names this server answers for; `*` turns the check off.
        origins: other sites whose pages may ask from a browser, by a token that they send; its cookies they never get.
        max_body_bytes: greatest body of any request.
    """
    app = FastAPI(
        title="Tidemill",
        version="1",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        default_response_class=TidyResponse,
    )
    app.state.platform = platform
    app.state.verify = verify
    app.state.why = why
    app.state.gone = LedgerGone(platform)
    errors.install(app)
    app.add_middleware(BodyLimit, limit_bytes=max_body_bytes)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=METHODS, allow_headers=("authorization", "content-type"))
    app.add_middleware(KnownHosts, hosts=hosts)
    for part in (loop, data, features, runs, models, decisions, monitoring, events):
        app.include_router(part.router, prefix=PREFIX, dependencies=[Depends(access_of)])

    @app.get("/healthz", include_in_schema=False)
    def alive() -> dict[str, str]:
        """For probes: says only that the process answers."""
        return {"status": "ok"}

    return app
