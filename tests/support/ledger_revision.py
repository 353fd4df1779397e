"""A later Tidemill, whose ledgers have one more table."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.ledger import migrate, opening, schema


@contextmanager
def later_tidemill(folder: Path) -> Iterator[None]:
    """In the block the newest revision is 9999, with a table `extra`; its files are in `folder`."""
    shutil.copytree(migrate.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    extra = sa.Table("extra", schema.metadata, sa.Column("id", sa.String(8), primary_key=True), **schema.MYSQL)
    try:
        migrate.write_revision("One more table", "9999", folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(migrate, "FOLDER", folder)
            patch.setattr(opening, "HEAD", "9999")
            yield
    finally:
        schema.metadata.remove(extra)
