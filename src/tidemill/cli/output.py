"""Printing: tables for people, JSON for programs, progress on standard error."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from tidemill.core.instants import format_instant

Row = Mapping[str, Any]
_BARS = "▁▂▃▄▅▆▇█"


def plain(value: Any) -> Any:
    """Make frozen values, mappings and tuples JSON values; NaN becomes null, instants (`*_us`) stay integers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def show_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def show_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool, title: str = "", empty: str = "nothing yet") -> None:
    """Print rows as JSON (whole) or as a table of `columns`; `empty` says what to do when there are none."""
    if as_json:
        show_json(list(rows))
        return
    if not rows:
        click.echo(empty)
        return
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        numeric = all(isinstance(r.get(column), int | float | None) and not column.endswith("_us") for r in rows)
        table.add_column(column.removesuffix("_us"), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(c, row.get(c)) for c in columns))
    console().print(table)


def show_facts(facts: Row, *, as_json: bool, title: str = "") -> None:
    """Print one thing: name and value per line, nested values as JSON."""
    if as_json:
        show_json(facts)
        return
    if title:
        click.secho(title, bold=True)
    width = max((len(k) for k in facts), default=0)
    for key, value in facts.items():
        click.echo(f"  {key.removesuffix('_us'):<{width}}  {cell(key, value)}")


def cell(column: str, value: Any) -> str:
    """One value as people read it."""
    if value is None:
        return "—"
    if column.endswith("_us") and isinstance(value, int) and not column.endswith("latency_us"):
        return format_instant(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, str | int):
        return str(value)
    return json.dumps(plain(value), ensure_ascii=False)


def sparkline(values: Sequence[float | None], low: float | None = None, high: float | None = None) -> str:
    """Eight-level bars of the values; a space where there is none."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    low = min(known) if low is None else low
    high = max(known) if high is None else high
    span = (high - low) or 1.0
    return "".join(" " if v is None else _BARS[min(7, max(0, int((v - low) / span * 8)))] for v in values)


def console(*, stderr: bool = False) -> Any:
    """A rich console; wide enough for a table when the output is a file or a pipe."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=160)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on standard error that appears after one second; call what it gives with (done, of, what)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"), TimeElapsedColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=console(stderr=True), transient=True, auto_refresh=False)
    bar = _Bar(shown, title)
    try:
        yield bar
    finally:
        bar.stop()


class _Bar:
    """Starts drawing only once the work has taken a second, then four times a second at most."""

    def __init__(self, shown: Any, title: str) -> None:
        from time import perf_counter

        self._now, self._shown, self._title = perf_counter, shown, title
        self._began, self._drawn = perf_counter(), 0.0
        self._task: Any = None

    def __call__(self, done: int, of: int, what: str) -> None:
        now = self._now()
        if now - self._began < 1 or (now - self._drawn < 0.25 and done < of):
            return
        if self._task is None:
            self._shown.start()
            self._task = self._shown.add_task(self._title, total=of, what=what)
        self._drawn = now
        self._shown.update(self._task, completed=done, total=of, what=what)
        self._shown.refresh()

    def stop(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._shown.stop()
