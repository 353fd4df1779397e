"""tidemill features training-set: rows with their features as of each row's own time, into a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidemill.cli.options import INSTANT, opened
from tidemill.core.errors import InvalidError

if TYPE_CHECKING:
    import pyarrow as pa


@click.command("training-set")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--features", default="", metavar="NAMES", help="Views, single features, on-demand features, services, columns; with commas.")
@click.option("--spine", default=None, metavar="TABLE|FILE", help="A table of events, or a Parquet or CSV file of rows with a column `at`.")
@click.option("--label", default=None, metavar="NAME", help="Put this label beside each row; '' for none.")
@click.option("--service", default=None, help="Whose features, spine and label are the defaults.")
@click.option("--key", default="", metavar="COLUMN", help="What tells rows apart, when the table's key does not.")
@click.option("--at", default="", metavar="COLUMN", help="When each row is asked about, instead of the table's event time.")
@click.option("--lead", default="", metavar="DURATION", help="How long before that time, for example 1h.")
@click.option("--from", "from_us", type=INSTANT, default=None, help="No row of an earlier time.")
@click.option("--until", "until_us", type=INSTANT, default=None, help="No row of a later time, and labels as they were known then.")
@click.pass_obj
def training_set_command(
    where: tuple[Path, Sequence[str]], out: Path, features: str, spine: str | None, label: str | None, service: str | None, key: str, at: str,
    lead: str, from_us: int | None, until_us: int | None,
) -> None:  # fmt: skip
    """Write a training set to FILE (.parquet or .csv): each row with the features that were known at its own time, and its label.

    Nobody has to list rows: without options they are those of the project's service. With --features, --spine TABLE takes each row of
    a table of events as it was known at its own time; --label alone takes the keys and times of the label's table.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise InvalidError(f"{str(out)!r} is neither .parquet nor .csv")
    from tidemill.platform.frames import make_frame, summary
    from tidemill.platform.wiring import frame_source

    names = [name.strip() for name in features.split(",") if name.strip()]
    with opened(*where) as platform:
        until = platform.clock.now_us() if until_us is None else until_us
        rows, counts = make_frame(
            platform.definitions, frame_source(platform), names, spine=spine, label=label, service=service, key=key, at=at, lead=lead,
            from_us=from_us, until_us=until,
        )  # fmt: skip
    _write(rows, out)
    click.echo(f"wrote {out}: {summary(rows, counts)}")


def _write(rows: pa.Table, out: Path) -> None:
    """Whole or not at all: under another name first."""
    part = out.with_name(f".{out.name}.part")
    try:
        if out.suffix == ".csv":
            from pyarrow import csv

            csv.write_csv(rows, part)
        else:
            import pyarrow.parquet as pq

            pq.write_table(rows, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
