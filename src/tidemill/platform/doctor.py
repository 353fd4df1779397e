"""Is everything in place? Each check says what it found and, when something is wrong, what to do."""

from __future__ import annotations

import platform as machine
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tidemill.core.errors import TidemillError

if TYPE_CHECKING:
    from tidemill.platform.config import Config
    from tidemill.platform.root import Platform

LEAST_FREE_BYTES = 1_000_000_000
PORTS = (
    "tables",
    "blobs",
    "schemas",
    "catalog",
    "offline",
    "online",
    "tracker",
    "registry",
    "runtime",
    "router",
    "log",
    "labels",
    "tuner",
    "stream",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `hint` says what to do about a warning or a failure."""

    name: str
    state: Literal["ok", "warning", "failed"]
    text: str
    hint: str = ""


def examine(project: Path, overrides: Sequence[str] = (), *, fix: bool = False) -> list[Check]:
    """Check Python, packages, disk, configuration, tables, definitions, ledger and stack; outside of a project only the first three.

    With `fix`, the tables of a project that was moved are told their new place first; do that when nothing else uses it.
    """
    from tidemill.platform.project import find_project

    checks = [_python(), _packages()]
    try:
        root = find_project(project)
    except TidemillError as error:
        return [*checks, _disk(project.resolve()), Check("project", "warning", str(error), "run it in a project to check its stack")]
    checks.append(_disk(root))
    return [*checks, *_project(root, overrides, fix)]


def _python() -> Check:
    return Check("python", "ok", f"{machine.python_version()} at {sys.executable}")


def _packages() -> Check:
    from packaging.requirements import Requirement

    wrong, found = [], []
    for line in metadata.requires("tidemill") or []:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        found.append(f"{needed.name} {version}")
        if not needed.specifier.contains(version, prereleases=True):
            wrong.append(f"{needed.name} is {version}, but {needed.specifier} is needed")
    text = f"tidemill {metadata.version('tidemill')}, {len(found)} dependencies"
    if wrong:
        return Check("packages", "failed", "; ".join(wrong), "pip install --upgrade tidemill")
    return Check("packages", "ok", f"{text} ({', '.join(found[:4])} …)")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free at {folder}"
    if free < LEAST_FREE_BYTES:
        return Check("disk", "warning", text, "predictions stop being logged when the disk is full; make room")
    return Check("disk", "ok", text)


def _project(root: Path, overrides: Sequence[str], fix: bool) -> Iterator[Check]:
    from tidemill.platform.config import load_config
    from tidemill.platform.root import Platform

    try:
        config = load_config(root, overrides)
    except TidemillError as error:
        yield Check("config", "failed", str(error), "correct the file and the key it names")
        return
    yield Check("config", "ok", f"stack {config.stack.name}, home {config.home}")
    yield from _tls(config, root)
    opened = Platform.open(root, overrides)
    try:
        yield _tables(opened, fix)
        yield _definitions(opened)
        yield from _ledger(opened)
        yield from _serving(opened)
        yield _stack(opened)
        yield from _offline(opened)
        yield from _streams(opened)
    finally:
        opened.close()


def _tls(config: Config, root: Path) -> Iterator[Check]:
    """The certificate of the servers, if they have one."""
    from tidemill.platform.tls import tls_of

    if not config.tls.cert:
        return

    def look() -> Check:
        made = tls_of(config, root)
        until = made.check(config.serving.host) if made is not None else ""
        return Check("tls", "ok", f"{config.tls.cert} for {config.tls.name or config.serving.host}, until {until}")

    yield _attempt("tls", look)


def _attempt(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except TidemillError as error:
        return Check(name, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a system raises is what the doctor is asked to report
        return Check(name, "failed", f"{type(error).__name__}: {error}", "TIDEMILL_DEBUG=1 shows where")


def _tables(opened: Platform, fix: bool) -> Check:
    def look() -> Check:
        from tidemill.versioning.embedded import IcebergTableStore

        store = opened.tables
        if not isinstance(store, IcebergTableStore):
            return Check("tables", "ok", opened.config.stack.tables.partition(":")[0])
        strangers = store.strangers()
        if not strangers:
            return Check("tables", "ok", f"{len(store.snapshots())} tables")
        place = next(iter(strangers.values())).removeprefix("file://")
        if fix:
            return Check("tables", "ok", f"{len(store.relocate())} tables made in {place} were told where they are now")
        hint = "when nothing else uses the project, `tidemill doctor --fix` tells them their new place"
        return Check("tables", "failed", f"{len(strangers)} tables were made in {place}, and their folder is elsewhere now", hint)

    return _attempt("tables", look)


def _definitions(opened: Platform) -> Check:
    def look() -> Check:
        from tidemill.platform.project import missing_columns

        d = opened.definitions
        text = f"{len(d.tables)} tables, {len(d.views)} feature views, {len(d.services)} services"
        columns = {}
        for snapshot in opened.tables.snapshots():
            columns[snapshot.table] = opened.tables.scan(snapshot.table).schema.names
        lacking = missing_columns(d, columns)
        if lacking:
            return Check("definitions", "failed", "; ".join(lacking), "correct definitions.py or the table's source")
        return Check("definitions", "ok", text)

    return _attempt("definitions", look)


def _stack(opened: Platform) -> Check:
    def look() -> Check:
        for port in PORTS:
            getattr(opened, port)
        return Check("stack", "ok", f"{len(PORTS)} ports answer")

    return _attempt("stack", look)


def _offline(opened: Platform) -> Iterator[Check]:
    """An offline store on another system is started and says what it is."""
    describe = getattr(opened.__dict__.get("offline"), "describe", None)
    if describe is not None:
        yield _attempt("offline", lambda: Check("offline", "ok", describe()))


def _streams(opened: Platform) -> Iterator[Check]:
    """Each topic that a table's events come in: whether it answers, and what is in it."""

    def look(table: str) -> Check:
        told = []
        for topic in opened.topics[table].values():
            extents = topic.stream.extent(topic.name)
            n, events = len(extents), sum(e.end - e.first for e in extents)
            told.append(f"{topic.id}, {n} partition{'s' * (n > 1)}, {events:,} events")
        return Check(f"stream {table}", "ok", "; ".join(told))

    try:
        tables = list(opened.topics)
    except TidemillError as error:
        yield Check("streams", "failed", str(error), "correct the source in definitions.py, or install the extra it names")
        return
    for table in tables:
        found = _attempt(f"stream {table}", lambda table=table: look(table))  # type: ignore[misc]
        yield found if found.state == "ok" else replace(found, hint="see to the server that the URL names; events wait there meanwhile")


def _serving(opened: Platform) -> Iterator[Check]:
    """What the model servers that run now have to do without."""
    from tidemill.core.instants import format_instant
    from tidemill.ledger import conditions

    try:
        with opened.ledger.read() as db:
            current = conditions.current(db, opened.clock.now_us())
    except TidemillError:
        return  # the check of the ledger has said so
    for c in current:
        yield Check("serving", "warning", f"{c.service}: {c.cause} since {format_instant(c.since_us)}: {c.reason}", c.means)


def _ledger(opened: Platform) -> Iterator[Check]:
    def look() -> Check:
        import sqlalchemy as sa

        from tidemill.ledger import schema

        with opened.ledger.read() as db:
            there = set(sa.inspect(db).get_table_names())
            lacking = [t.name for t in schema.metadata.sorted_tables if t.name not in there]
            if lacking:
                return Check("ledger", "failed", f"lacks {', '.join(lacking)}", "run `tidemill ledger upgrade`")
            runs = db.execute(sa.select(sa.func.count()).select_from(schema.run)).scalar_one()
            if db.dialect.name != "sqlite":
                return Check("ledger", "ok", f"{db.dialect.name}, {runs} runs")
            sound = db.exec_driver_sql("PRAGMA quick_check").scalar()
            mode = db.exec_driver_sql("PRAGMA journal_mode").scalar()
        if sound != "ok":
            return Check("ledger", "failed", f"the database is damaged: {sound}", "restore ledger.db from a backup")
        if mode != "wal":
            return Check("ledger", "warning", f"journal mode {mode}", "readers will block writers; this file system does not do WAL")
        return Check("ledger", "ok", f"sound, {mode}, {runs} runs")

    yield _attempt("ledger", look)
