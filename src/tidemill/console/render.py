"""Templates with the context that every page has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from tidemill.api.needs import Needs
from tidemill.api.queries.times import as_of
from tidemill.console.assets import plotly_style_ids, stamp
from tidemill.console.words import FILTERS
from tidemill.ledger.store import to_json

HERE = Path(__file__).parent
NAV = (
    ("loop", "/", "Loop", "l"),
    ("data", "/data", "Data", "d"),
    ("features", "/features", "Features", "f"),
    ("runs", "/runs", "Runs", "r"),
    ("models", "/models", "Models", "m"),
    ("services", "/services", "Services", "s"),
    ("monitoring", "/monitoring", "Monitoring", "o"),
    ("decisions", "/decisions", "Decisions", "x"),
    ("replay", "/replay", "Replay", "p"),
)


@cache
def templates() -> Environment:
    """The environment: everything is escaped, an unknown name is an error."""
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.filters.update(FILTERS)
    env.filters["json_block"] = json_block
    env.globals.update(nav=NAV, asset=stamp, plotly_style_ids=plotly_style_ids, query=query)
    return env


def json_block(value: Any) -> Markup:
    """JSON that is safe inside a script element."""
    return Markup(to_json(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 -- no markup is left


def query(request: Request, **changes: Any) -> str:
    """The current path with some query parameters changed; None removes one."""
    merged: Mapping[str, Any] = {**dict(request.query_params), **changes}
    kept = {k: v for k, v in merged.items() if v not in (None, "")}
    return f"{request.url.path}?{urlencode(kept)}" if kept else request.url.path


def platform_of(request: Request) -> Needs:
    """The platform behind the console."""
    platform: Needs = request.app.state.platform
    return platform


def page(request: Request, template: str, here: str, *, code: int = 200, **context: Any) -> HTMLResponse:
    """Render a page. `here` marks its place in the navigation."""
    if "now_us" not in context:
        platform = platform_of(request)
        with platform.ledger.read() as db:
            context["now_us"] = as_of(db, platform.clock)
    body = templates().get_template(template).render(request=request, here=here, plots=context.pop("plots", {}), code=code, **context)
    return HTMLResponse(body, status_code=code)
