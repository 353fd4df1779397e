"""Opening a ledger: where it may be, and whether its tables are those of this version."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import sqlalchemy as sa

from tidemill.core.errors import ConflictError, InvalidError, RefusedError
from tidemill.ledger import schema
from tidemill.ledger.servers import connected, shown

HEAD = "0002"
"""The revision that `schema.py` describes; a test holds it equal to the newest file in `migrations/versions`."""

BEGUN = "TIDEMILL_LEDGER_BEGUN"
"""Set for processes, and those that they start, that others have begun a ledger for: they make none when its file is not there."""

_REMOTE = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.rclone",
    ]
)
_VERSION = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for other databases. Raises `InvalidError` for one in memory, `RefusedError` for one on a network file system."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:":
        raise InvalidError(f"{url!r} would keep the ledger in memory and lose it; name a file, for example sqlite:///.tidemill/ledger.db")
    path = Path(parsed.database)
    if not path.parent.is_dir():
        raise InvalidError(f"there is no folder {path.parent} for the ledger; make it first")
    kind = file_system(path.parent)
    if kind in _REMOTE:
        raise RefusedError(
            f"the ledger {path} is on a network file system ({kind}), where SQLite's locks are not reliable and data can be lost; "
            "put it on a local disk, or use a database server (postgresql://…)"
        )
    return path


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Kind of the file system that `folder` is on, as the kernel names it; "" where it cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, best, kind = folder.resolve(), -1, ""
    for line in lines:
        fields = line.split(" ")
        point = Path(fields[1].replace("\\040", " ")) if len(fields) > 2 else None
        if point is not None and place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def prepare(url: str, engine: sa.Engine, write: Callable[[], AbstractContextManager[sa.Connection]]) -> None:
    """Make the tables of a new ledger; refuse one of another version. Raises `ConflictError` that says what to do."""
    found = revision(engine)
    if found is None:
        lite = engine.dialect.name == "sqlite"
        with write() as db:
            if not sa.inspect(db).has_table("alembic_version"):
                if lite and sa.inspect(db).has_table("event"):
                    raise ConflictError(
                        f"the ledger {shown(url)} was made before ledgers had versions; move it away and start with a new one"
                    )
                schema.metadata.create_all(db, checkfirst=not lite)  # MySQL keeps the tables of who was killed here
                _VERSION.create(db)
                db.execute(_VERSION.insert().values(version_num=HEAD))
        found = revision(engine)
    if found != HEAD:
        raise ConflictError(
            f"the ledger {shown(url)} is at revision {found} and this Tidemill needs {HEAD}; "
            f"run `tidemill ledger upgrade`, or, when the ledger is the newer of the two, install a newer Tidemill"
        )


def revision(engine: sa.Engine) -> str | None:
    """The revision a ledger is at, None when it has no tables yet."""
    with connected(engine) as db:
        try:
            return db.execute(sa.select(_VERSION.c.version_num)).scalar()
        except (sa.exc.OperationalError, sa.exc.ProgrammingError):
            return None
