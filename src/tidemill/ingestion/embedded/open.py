"""From a table's source URL to its source."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote, urlsplit

from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError, RefusedError, not_found
from tidemill.core.instants import parse_duration
from tidemill.ingestion.embedded.files import FilesSource
from tidemill.ingestion.embedded.sqlite import SqliteSource
from tidemill.ingestion.events import SKEW_US
from tidemill.ingestion.merged import MergedSource
from tidemill.ingestion.ports import Source, Stream, Topic
from tidemill.ingestion.pushed import PUSHED, PushedSource

SCHEMES = ("files", "push", "sqlite")
NO_TOPICS: Mapping[str, Topic] = MappingProxyType({})
_PUSHED_AS = re.compile(r"[A-Za-z0-9_.-]{0,100}")


def open_source(
    url: str | Sequence[str],
    project: Path,
    table: Table,
    stream: Stream | None = None,
    *,
    topics: Mapping[str, Topic] = NO_TOPICS,
    skew_us: int = SKEW_US,
) -> Source:
    """Open `files:FOLDER_OR_FILE`, `sqlite:///FILE?table=NAME&every=1d` or `push:` (`push:NAME`); relative paths are below `project`.

    Of several URLs the batches are given together. `stream` is where pushed rows are; `topics` has what was opened for other URLs of
    topics; `skew_us` is how far ahead of its arrival an event may lie.

    Raises `InvalidError` for a URL that says too little or too much, `NotFoundError` for an unknown scheme, `RefusedError` for a relative path
    that leaves the project.
    """
    if not isinstance(url, str):
        parts = [open_source(part, project, table, stream, topics=topics, skew_us=skew_us) for part in url]
        return parts[0] if len(parts) == 1 else MergedSource(parts)
    scheme, colon, rest = url.partition(":")
    if url in topics and stream is not None:
        return PushedSource(topics[url], table, stream, skew_us=skew_us)
    if not colon or scheme not in SCHEMES:
        raise not_found("scheme of sources", scheme if colon else url, SCHEMES)
    if scheme == "files":
        return FilesSource(_inside(project, rest, url), table)
    if scheme == "push":
        if stream is None or not _PUSHED_AS.fullmatch(rest):
            raise InvalidError(f"the source {url!r} of table {table.name!r} must be 'push:' or 'push:NAME', on a stack that has a stream")
        return PushedSource(Topic(stream, table.name, PUSHED), table, stream, skew_us=skew_us)
    return _sqlite(url, project, table)


def _sqlite(url: str, project: Path, table: Table) -> Source:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - {"table", "every"}):
        raise InvalidError(f"the source {url!r} of table {table.name!r} has an unknown option {unknown[0]!r}; known are table and every")
    if parts.netloc or not parts.path.strip("/"):
        raise InvalidError(f"the source {url!r} of table {table.name!r} names no file; write sqlite:///shop.db?table=orders")
    path = parts.path[1:] if url.startswith("sqlite://") else parts.path  # sqlite:///relative, sqlite:////absolute, sqlite:relative
    path = unquote(path)
    return SqliteSource(
        _inside(project, path, url), options.get("table", table.name), table, every_us=parse_duration(options.get("every", "1d"))
    )


def _inside(project: Path, path: str, url: str) -> Path:
    """`path` below the project; an absolute path is meant as it is."""
    if not path:
        raise InvalidError(f"the source {url!r} names no path; write for example files:data/landings")
    plain = Path(os.path.normpath(path))
    if plain.parts[:1] == ("..",):
        raise RefusedError(f"the source {url!r} leaves the project {project}; write an absolute path if that is meant")
    return project / plain
