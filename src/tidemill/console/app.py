"""The console on the API's application: pages at `/`, data at `/api/v1`."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from fastapi import Depends, FastAPI, Request
from starlette.responses import Response
from starlette.routing import Route

from tidemill.api.access import access_of
from tidemill.console import gone, login
from tidemill.console.assets import prepare, static
from tidemill.console.headers import SafeHeaders
from tidemill.console.pages import (
    data,
    decisions,
    explain,
    features,
    loadtests,
    loop,
    models,
    monitoring,
    prediction,
    replay,
    run,
    runs,
    services,
    traffic,
)
from tidemill.console.render import page, platform_of, templates

PAGES = (loop, data, features, explain, runs, run, models, services, monitoring, decisions, replay, prediction, traffic, loadtests)


def mount(app: FastAPI, *, models: Callable[[], gone.Models] | None = None) -> None:
    """Add the console to an application that `build_api` made; what the first page would wait for is prepared beside the start.

    Args:
        app: the application.
        models: asks the model server itself what it does, for when the ledger cannot say; None where no server is known.
    """
    app.state.platform.definitions  # noqa: B018 -- loads the project's code once, here
    Thread(target=_warm, name="console-warm", daemon=True).start()
    app.state.error_page = _error_page
    app.state.gone_page = gone.page_of(models)
    app.add_middleware(SafeHeaders)
    app.router.routes.append(Route("/static/{name}", static, methods=["GET"]))
    app.include_router(login.router)
    for part in PAGES:
        app.include_router(part.router, dependencies=[Depends(access_of)])


def _warm() -> None:
    """Compile the templates and pack the static files."""
    env = templates()
    for name in env.list_templates():
        env.get_template(name)
    prepare()


def _error_page(request: Request, status: int, error: str, hint: str) -> Response:
    if status == 401:
        return login.to_login(request)
    # the ledger, whose time a page shows, may be what is gone
    return page(request, "error.html", "", code=status, error=error, hint=hint, now_us=platform_of(request).clock.now_us())
