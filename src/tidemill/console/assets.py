"""Static files: our own, and the chart library's script out of its installed wheel. Addresses carry the content's digest, so browsers keep them for a year."""

from __future__ import annotations

import gzip
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from tidemill.core import digests
from tidemill.core.errors import NotFoundError, UnavailableError

HERE = Path(__file__).parent / "static"
PLOTLY = "plotly.js"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
YEAR_S = 31_536_000


def _file(name: str) -> Path:
    if name == PLOTLY:
        spec = find_spec("plotly")
        if spec is None or spec.origin is None:
            raise UnavailableError("charts need the package plotly, which is not installed; pip install plotly")
        return Path(spec.origin).parent / "package_data" / "plotly.min.js"
    path = HERE / name
    if name not in {p.name for p in HERE.iterdir()}:
        raise NotFoundError(f"no file {name!r} is served here; reload the page")
    return path


@cache
def _content(name: str) -> tuple[bytes, str]:
    path = _file(name)
    return path.read_bytes(), digests.of_file(path)[7:19]


@cache
def _packed(name: str) -> bytes:
    return gzip.compress(_content(name)[0], 6, mtime=0)


@cache
def plotly_style_ids() -> tuple[str, ...]:
    """Ids of the style elements that Plotly's script would add for parts we do not use, such as maps.

    It adds none whose id is on the page already, so pages with charts carry an empty element for each and the content
    security policy needs no exception. Its own rules go into our stylesheet with the id `plotly.js-style-global`.
    """
    found = re.findall(rb'getElementById\("([0-9a-f]{64})"\)', _content(PLOTLY)[0])
    return tuple(dict.fromkeys(name.decode() for name in found))


def stamp(name: str) -> str:
    """The address of a static file, with its digest."""
    return f"/static/{name}?v={_content(name)[1]}"


def prepare() -> None:
    """Read and pack every file once."""
    for name in (PLOTLY, *(p.name for p in HERE.iterdir())):
        _packed(name)


def static(request: Request) -> Response:
    """Serve a static file, packed for those who take it so."""
    name = request.path_params["name"]
    body, digest = _content(name)
    fresh = request.query_params.get("v") == digest
    headers = {
        "Cache-Control": f"public, max-age={YEAR_S}, immutable" if fresh else "no-cache",
        "ETag": f'"{digest}"',
        "Vary": "Accept-Encoding",
    }
    if request.headers.get("if-none-match") == f'"{digest}"':
        return Response(status_code=304, headers=headers)
    if len(body) > 1024 and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = _packed(name)
    return Response(body, media_type=_TYPES[Path(name).suffix], headers=headers)
