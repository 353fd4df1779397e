"""Filling online state from published tables: what is missing, and nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tidemill.core.definitions import FeatureView
from tidemill.core.errors import InvalidError, not_found
from tidemill.core.instants import DAY_US, format_instant
from tidemill.features.pieces import Mark, Piece, Published, count_rows, file_name, missing, new_rows, relevant_rows
from tidemill.features.ports import BulkProcessor, StreamProcessor, ViewState

logger = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
Reason = Literal["never materialized", "changed definition", "store flushed", "interrupted", "not published", "new batches"]
BACK_US = DAY_US
"""How far before the present a read may be: rows that counted then are filled in as well."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Why the online state of a version of a view is not what it could be. `files` hold what it lacks, `batches` came since."""

    view: str
    digest: str
    why: Reason
    table: str
    batches: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Filled:
    """What `materialize` did for one version of a view: how many rows were new to it, whether it has just been published."""

    view: str
    digest: str
    why: Reason
    rows: int
    published: bool


def retention_us(view: FeatureView) -> int:
    """How far back rows of a view's table can matter to a read: its longest window or ttl."""
    return max((max(a.over_us + a.hop_us, a.ttl_us) for a in view.aggregates), default=0)


def stale(
    states: Iterable[ViewState], tables: Mapping[str, Published], *, remembered: Collection[str] = (), views: Collection[str] | None = None
) -> list[Stale]:
    """What `materialize` would work on, and why; changes nothing.

    Args:
        states: `StreamProcessor.versions()`.
        tables: what is published; a table that is not named has no rows yet.
        remembered: digests of versions that were published once. If such a one is absent, the store was flushed.
        views: only these, all when None.
    """
    states = list(states)
    if unknown := set(views or ()) - {s.view.name for s in states}:
        raise not_found("feature view", min(unknown), {s.view.name for s in states})
    served = {s.view.name for s in states if s.status == "published"}
    found = []
    for state in states:
        if views is not None and state.view.name not in views:
            continue
        published = tables.get(state.view.table.name)
        mark = Mark.read(state.mark)
        lacking = missing(published, mark) if published else []
        if why := _reason(state, bool(lacking), remembered, served):
            batches = published.batches - mark.batches if published else 0
            found.append(Stale(state.view.name, state.digest, why, state.view.table.name, batches, len(lacking)))
    return found


def _reason(state: ViewState, lacking: bool, remembered: Collection[str], served: Collection[str]) -> Reason | None:
    if state.status == "absent":
        if not state.wanted:
            return None
        if state.digest in remembered:
            return "store flushed"
        return "changed definition" if state.view.name in served else "never materialized"
    if state.status == "building":
        return "interrupted" if state.wanted else None
    if state.status == "complete" and state.wanted:
        return "not published"
    return "new batches" if lacking else None


def materialize(
    processor: StreamProcessor,
    tables: Mapping[str, Published],
    *,
    at_us: int,
    views: Collection[str] | None = None,
    from_us: int | None = None,
    until_us: int | None = None,
    publish: bool = True,
    remembered: Collection[str] = (),
    progress: Progress = lambda _done, _of, _what: None,
) -> list[Filled]:
    """Bring online state up to date with what is published; doing it again changes nothing.

    A version that is there takes the files that it lacks. One that is not (never materialized, changed, flushed) is built beside what is
    served, from the rows that still count, and published when it is complete. A killed run goes on where its last commit was.

    Args:
        processor: where the rows go.
        tables: what is published, by table name.
        at_us: the present; what is older than every window is tidied away.
        views: only these, all when None.
        from_us: push rows known from then on again, also those that were taken.
        until_us: rows known later wait for another run.
        publish: whether versions that become complete are published, or stay beside the ones that are served.
        remembered: see `stale`.
        progress: told (rows read, rows in all, view).

    Raises:
        InvalidError: rows of a table lack a column; or a version has to be built and `from_us` would leave out rows that still count.
    """
    states = {s.digest: s for s in processor.versions()}
    todo = stale(states.values(), tables, remembered=remembered, views=views)
    if from_us is not None:
        todo = _again(todo, list(states.values()), tables, views)
    processor.advance(at_us)
    bar = _Bar(progress, sum(_rows_of(states[t.digest], tables.get(t.table)) for t in todo))
    done: list[Filled] = []
    for item in todo:
        state, published = states[item.digest], tables.get(item.table)
        if item.why == "new batches":
            rows = _follow(processor, state, published, from_us, until_us, bar) if published else 0
            done.append(Filled(item.view, item.digest, item.why, rows, published=False))
            continue
        at = at_us if until_us is None else min(at_us, until_us)
        rows = 0 if item.why == "not published" else _build(processor, state, published, at, from_us, until_us, bar)
        if publish or item.why != "not published":
            processor.publish({item.digest: publish})
        done.append(Filled(item.view, item.digest, item.why, rows, published=publish))
    logger.info("features.materialized", extra={"rows": {f.view: f.rows for f in done}})
    return done


def _again(todo: list[Stale], states: Sequence[ViewState], tables: Mapping[str, Published], views: Collection[str] | None) -> list[Stale]:
    """With `from_us` given, versions that lack nothing are gone through as well."""
    named = {item.digest for item in todo}
    more = [
        Stale(s.view.name, s.digest, "new batches", s.view.table.name)
        for s in states
        if s.status == "published" and s.digest not in named and s.view.table.name in tables and (views is None or s.view.name in views)
    ]
    return [*todo, *more]


def _follow(
    processor: StreamProcessor, state: ViewState, published: Published, from_us: int | None, until_us: int | None, bar: _Bar
) -> int:
    mark = Mark.read(state.mark)
    paths = missing(published, mark) if from_us is None else list(published.scan.paths)
    return _take(processor, state, new_rows(published, paths, from_us=from_us, until_us=until_us), mark, published, bar)


def _build(
    processor: StreamProcessor,
    state: ViewState,
    published: Published | None,
    at_us: int,
    from_us: int | None,
    until_us: int | None,
    bar: _Bar,
) -> int:
    since = at_us - retention_us(state.view) - BACK_US
    if from_us is not None and from_us > since:
        raise InvalidError(
            f"feature view {state.view.name!r} has to be built, and rows known from {format_instant(since)} on still count; "
            "leave --from out, or name an earlier time"
        )
    if state.status == "absent":
        processor.reset(state.view.name)
        state = replace(state, mark="")
    if published is None:
        processor.commit({state.digest: Mark().text()})
        return 0
    mark = Mark.read(state.mark)
    if isinstance(processor, BulkProcessor) and from_us is None and until_us is None and not mark.files:
        return _load(processor, state, published, at_us, bar)
    paths = missing(published, replace(mark, batches=-1))
    return _take(processor, state, relevant_rows(published, paths, since, until_us), mark, published, bar)


def _load(processor: BulkProcessor, state: ViewState, published: Published, at_us: int, bar: _Bar) -> int:
    new = processor.load(state.digest, published.scan, at_us=at_us)
    files = frozenset(map(file_name, published.scan.paths))
    processor.commit({state.digest: Mark(published.batches, files).text()})
    bar.step(count_rows(published, published.scan.paths), state.view.name)
    return new


def _take(processor: StreamProcessor, state: ViewState, pieces: Iterable[Piece], mark: Mark, published: Published, bar: _Bar) -> int:
    """Push pieces and commit each with its files; the number of batches is marked once all files are in."""
    new = 0
    for piece in pieces:
        new += processor.push(state.view.table.name, piece.rows, only={state.digest})
        mark = replace(mark, files=mark.files | piece.files)
        processor.commit({state.digest: mark.text()})
        bar.step(piece.rows.num_rows, state.view.name)
    there = frozenset(map(file_name, published.scan.paths))
    whole = replace(mark, batches=published.batches if there <= mark.files else mark.batches, files=mark.files & there)
    if whole != mark or not mark.files:
        processor.commit({state.digest: whole.text()})
    return new


def _rows_of(state: ViewState, published: Published | None) -> int:
    if published is None:
        return 0
    mark = Mark.read(state.mark)
    return count_rows(published, missing(published, mark))


@dataclass(slots=True)
class _Bar:
    """Counts rows for a progress bar."""

    tell: Progress
    total: int
    done: int = 0

    def step(self, rows: int, what: str) -> None:
        """So many rows more."""
        self.done += rows
        self.tell(min(self.done, self.total), self.total, what)
