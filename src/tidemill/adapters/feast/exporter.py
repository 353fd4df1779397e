"""From a project to a Feast repository that answers with equal values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.adapters.feast.fit import Problem
from tidemill.adapters.feast.importer import NotKeptError
from tidemill.adapters.feast.outfunctions import Exported, export_functions
from tidemill.adapters.feast.outtext import Texts
from tidemill.adapters.feast.points import change_rows, is_plain, plain_rows
from tidemill.adapters.feast.spelling import feast_type
from tidemill.core.definitions import Definitions, FeatureView
from tidemill.core.errors import ConflictError, InvalidError, NotFoundError, not_found
from tidemill.features.ports import OfflineStore
from tidemill.versioning.ports import Scan, TableStore


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and what is different in Feast (`notes`). `first_us` and `now_us`: the span to materialize."""

    folder: Path
    files: tuple[str, ...]
    views: int
    on_demand: int
    services: int
    rows: Mapping[str, int]
    first_us: int
    now_us: int
    notes: tuple[str, ...]


def export_repository(
    definitions: Definitions,
    project: Path,
    folder: Path,
    *,
    tables: TableStore,
    offline: OfflineStore,
    now_us: int,
    skip: Collection[str] = (),
) -> ExportReport:
    """Write a Feast repository with this project's features as they are known at `now_us`.

    Args:
        definitions: what the project defines.
        project: its folder; functions are taken from its files.
        folder: a new or empty folder for the repository.
        tables: the published rows.
        offline: computes the values of views that Feast has no word for.
        now_us: what is known later, or has not happened by then, is left out.
        skip: views, on-demand features and services to leave out.

    Raises:
        NotKeptError: something cannot be exported; nothing was written.
        ConflictError: the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} is there and not empty; name another folder")
    return _Exporter(definitions, project, folder, tables, offline, now_us, frozenset(skip)).run()


class _Exporter:
    def __init__(
        self,
        definitions: Definitions,
        project: Path,
        folder: Path,
        tables: TableStore,
        offline: OfflineStore,
        now_us: int,
        skip: frozenset[str],
    ) -> None:
        named = [*definitions.views, *definitions.on_demand, *definitions.feature_services, *definitions.services]
        for name in sorted(skip - set(named)):
            raise not_found("object to skip", name, named)
        self.definitions, self.project, self.folder = definitions, project, folder
        self.tables, self.offline, self.now_us, self.skip = tables, offline, now_us, skip
        self.views = [v for v in definitions.views.values() if v.name not in skip]
        self.scans: dict[str, Scan] = {}
        self.problems: list[Problem] = []

    def run(self) -> ExportReport:
        """Check everything, then write everything."""
        if not self.views:
            raise InvalidError("the project defines no feature view that is not skipped; there is nothing to export")
        rows = {view.name: found for view in self.views if (found := self._rows(view)) is not None}
        functions = self._functions()
        texts = Texts(self.definitions, self.views, rows, functions, self.skip, project_name(self.project))
        self.problems += [Problem("feature service", name, reason) for name, reason in texts.refused()]
        if self.problems:
            raise NotKeptError(self.problems)
        written = self._write(texts, rows)
        first = min((_span(view, rows[view.name])[0] for view in self.views), default=self.now_us)
        return ExportReport(
            self.folder, tuple(sorted(written)), len(self.views), len(functions.views), len(texts.services),
            {name: table.num_rows for name, table in rows.items()}, first, self.now_us, tuple(self._notes(functions)),
        )  # fmt: skip

    def _rows(self, view: FeatureView) -> pa.Table | None:
        try:
            scan = self.scans.setdefault(view.table.name, self.tables.scan(view.table.name))
            rows = plain_rows(view, scan, self.now_us) if is_plain(view) else change_rows(view, scan, self.offline, self.now_us)
        except (NotFoundError, InvalidError) as error:
            self.problems.append(Problem("feature view", view.name, f"its rows cannot be read: {error}"))
            return None
        for name in (*view.keys, *(a.name for a in view.aggregates)):
            if feast_type(rows.schema.field(name).type) is None:
                reason = f"column {name!r} is {rows.schema.field(name).type}, for which Feast has no type"
                self.problems.append(Problem("feature view", view.name, reason))
        return rows

    def _functions(self) -> Exported:
        types = {name: self.scans[t].schema.field(name).type for t in self.scans for name in self.scans[t].schema.names}
        for table in self.definitions.tables.values():
            try:
                types = {f.name: f.type for f in self.tables.scan(table.name).schema} | types
            except NotFoundError:
                continue
        wanted = [f for name, f in self.definitions.on_demand.items() if name not in self.skip]
        exported = export_functions(wanted, self.definitions, self.views, self.project, types)
        self.problems += [Problem("on-demand feature", name, reason) for name, reason in exported.refused]
        return exported

    def _write(self, texts: Texts, rows: Mapping[str, pa.Table]) -> list[str]:
        files = {"feature_store.yaml": texts.store(), "definitions.py": texts.definitions()}
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        for name, table in rows.items():
            pq.write_table(table, self.folder / "data" / f"{name}.parquet")
        return [*files, *(f"data/{name}.parquet" for name in rows)]

    def _notes(self, functions: Exported) -> Iterator[str]:
        yield "Feast's online values are those of the last materialize, and it serves them past their ttl; export and materialize again to renew"
        if plain := [v.name for v in self.views if is_plain(v)]:
            yield (
                "rows are exported as they are known now: Feast has one clock, so a past training set uses corrections and late rows before "
                f"they were known: {', '.join(plain)}"
            )
        if computed := [v.name for v in self.views if not is_plain(v)]:
            yield (
                "Feast has no windows, conditions or several ttls: the values are exported as they changed, with both clocks, so past training "
                f"sets are equal and leak nothing; new events need a new export: {', '.join(computed)}"
            )
        if functions.guessed:
            yield f"request columns of unknown type are declared Float64: {', '.join(functions.guessed)}"
        if self.definitions.services:
            yield f"only the features of a service are exported, not its label, gate, rollout and pipeline: {', '.join(self.definitions.services)}"


def project_name(project: Path) -> str:
    """A folder's name as Feast takes it: letters, digits and underscores."""
    return re.sub(r"\W", "_", project.resolve().name).strip("_") or "tidemill"


def _span(view: FeatureView, rows: pa.Table) -> tuple[int, int]:
    name = view.table.event_time if is_plain(view) else "changed"
    times = rows[name].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    return (min(times), max(times)) if times else (2**62, 0)
