"""From a Feast repository to a Tidemill project that serves the same values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tidemill.adapters.feast.fit import Fitted, Problem, fit
from tidemill.adapters.feast.repository import Named, OnDemandView, Projection, Repository, View, read_repository
from tidemill.adapters.feast.spelling import laid_out, q
from tidemill.core.errors import ConflictError, InvalidError
from tidemill.core.instants import DAY_US, SECOND_US, format_duration

FOREVER = "36500d"
"""What Feast's ttl of zero becomes: a hundred years."""
FOREVER_US = 36_500 * DAY_US
FUNCTIONS = "feast_functions"
_CONFIG = "defaults:\n  - tidemill # all settings with their defaults\n  - stack: local\n  - retraining: default\n  - _self_\n"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was written, and what is different from Feast from now on (`notes`)."""

    project: Path
    files: tuple[str, ...]
    views: int
    on_demand: int
    services: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


class NotKeptError(InvalidError):
    """Objects that cannot be kept, all of them at once, in `problems`."""

    def __init__(self, problems: Collection[Problem]) -> None:
        """Build the message from `problems`."""
        lines = "".join(f"\n  {p.kind} {p.name!r}: {p.reason}" for p in problems)
        super().__init__(
            f"{len({p.name for p in problems})} of the repository's objects cannot be kept:{lines}\nchange them in Feast, or leave them "
            "out on purpose with --skip NAME; nothing was written"
        )
        self.problems = tuple(problems)


def import_repository(
    repository: Path, project: Path, *, python: str = "", skip: Collection[str] = (), wider: bool = False
) -> ImportReport:
    """Write a project that serves what a Feast repository serves.

    Args:
        repository: the folder with `feature_store.yaml`.
        project: a new or empty folder for `definitions.py`.
        python: the interpreter that has Feast.
        skip: names of objects to leave out.
        wider: serve 64-bit columns that Feast rounds to 32 bits in full.

    Raises:
        NotKeptError: something cannot be kept; nothing was written.
        ConflictError: the project's folder is not empty.
    """
    _must_be_new(project)
    return write_project(read_repository(repository, python), repository.resolve(), project, skip=skip, wider=wider)


def _must_be_new(project: Path) -> None:
    if project.exists() and (not project.is_dir() or any(project.iterdir())):
        raise ConflictError(f"{project} is there and not empty; name another folder with --into")


def write_project(
    described: Repository, repository: Path, project: Path, *, skip: Collection[str] = (), wider: bool = False
) -> ImportReport:
    """The second half of `import_repository`: from what a repository defines to the project."""
    _must_be_new(project)
    fitted = fit(described, repository, skip=skip, wider=wider)
    if fitted.problems:
        raise NotKeptError(fitted.problems)
    if not fitted.views:
        raise InvalidError(f"{repository} defines no feature view that is not skipped; there is nothing to import")
    notes = tuple(differences(fitted))
    texts = {"definitions.py": _Writer(fitted).text(), "conf/config.yaml": _CONFIG, ".gitignore": ".tidemill/\n__pycache__/\n"}
    if fitted.code:
        texts[f"{FUNCTIONS}.py"] = _functions(fitted)
    texts["README.md"] = _readme(fitted, notes)
    for name, text in texts.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")
    counts = len(fitted.views), len(fitted.on_demand), len(fitted.services)
    return ImportReport(project, tuple(sorted(texts)), *counts, tuple(fitted.skipped), notes)


def differences(fitted: Fitted) -> Iterator[str]:
    """Where the project answers otherwise than Feast does, for this repository."""
    yield "a value past its ttl is null with status OUTSIDE_MAX_AGE; Feast's online stores serve it as PRESENT"
    if forever := [v.name for v in fitted.views if not v.ttl_s]:
        yield f"Feast's ttl of zero, which means no limit, is {FOREVER} here: {', '.join(forever)}"
    two = sorted(s.name for s in fitted.sources.values() if s.known_time)
    one = sorted(s.name for s in fitted.sources.values() if not s.known_time)
    if two:
        yield (
            "the created timestamp is the known time: a training set for a past day leaves out rows that were written later, which Feast "
            f"would use: {', '.join(two)}"
        )
    if one:
        yield (
            "without a created timestamp a row counts as known when it happened, so rows that came late are used in the past, as in Feast; "
            f"name a column in known_time= when there is one: {', '.join(one)}"
        )
    if any(v.mode == "pandas" for v in fitted.on_demand):
        yield "on-demand views of mode pandas need pandas beside Tidemill: pip install pandas"
    if pushes := sorted({v.stream for v in fitted.views if v.stream}):
        yield f"what is pushed goes to the online values and the table, whatever 'to' says, so that training sees it: {', '.join(pushes)}"


class _Writer:
    """Writes definitions.py. Every object has a variable; one that is taken gets its kind behind it."""

    def __init__(self, fitted: Fitted) -> None:
        self.fitted = fitted
        self._taken = {"tm", *fitted.code, "run_pandas", "run_python", "run_singleton", "whole", "truth"}
        self.entities: dict[str, str] = {}
        self.tables: dict[str, str] = {}
        self.views = {v.name: self._variable(v.name, "view") for v in fitted.views}

    def text(self) -> str:
        used = {name for v in self.fitted.views for name in v.entities}
        self.entities = {e.name: self._variable(e.name, "entity") for e in self.fitted.repository.entities if e.name in used}
        self.tables = {name: self._variable(name, "table") for name in self.fitted.sources}
        blocks = [
            [self._entity(name) for name in self.entities],
            [self._table(name) for name in self.tables],
            [self._view(v) for v in self.fitted.views],
        ]
        functions = [self._on_demand(v, i) for v in self.fitted.on_demand for i in range(len(v.features))]
        services = [self._service(s, s.views) for s in self.fitted.services]
        parts = [self._head(), *("\n".join(lines) for lines in blocks), *functions, "\n".join(services)]
        return laid_out([part for part in parts if part])

    def _head(self) -> str:
        repository = self.fitted.repository
        lines = [
            f'"""Features of the Feast repository {repository.project!r}, written by `tidemill feast import`; yours to change."""',
            "",
            "import tidemill as tm",
        ]
        if self.fitted.on_demand:
            called = sorted({v.function for v in self.fitted.on_demand})
            lines.append(f"from {FUNCTIONS} import {', '.join(called)}")
            helpers = sorted(
                {_runner(v) for v in self.fitted.on_demand} | {w for v in self.fitted.on_demand for w in self._casts(v).values() if w}
            )
            lines.append(f"from tidemill.adapters.feast.functions import {', '.join(helpers)}")
        return "\n".join(lines)

    def _variable(self, name: str, kind: str) -> str:
        word = re.sub(r"\W", "_", name).lower().strip("_") or kind
        word = word if word[0].isalpha() else f"{kind}_{word}"
        found = next(w for w in (word, f"{word}_{kind}", *(f"{word}_{kind}{i}" for i in range(2, 10_000))) if w not in self._taken)
        self._taken.add(found)
        return found

    def _entity(self, name: str) -> str:
        entity = next(e for e in self.fitted.repository.entities if e.name == name)
        key = f", key={q(entity.key)}" if entity.key != name else ""
        return f"{self.entities[name]} = tm.Entity({q(name)}{key}{_facts(entity)})"

    def _table(self, name: str) -> str:
        source = self.fitted.sources[name]
        pushes = sorted({v.stream for v in self.fitted.views if v.source == name and v.stream})
        urls = [f"files:{self.fitted.paths[name]}", *(f"push:{p}" for p in pushes)]
        where = q(urls[0]) if len(urls) == 1 else f"({', '.join(map(q, urls))})"
        clocks = f"event_time={q(source.event_time)}, known_time={q(source.known_time or source.event_time)}"
        note = "" if source.known_time else "  # no created timestamp in Feast: known when it happened"
        return f"{self.tables[name]} = tm.Table({q(self.tables[name])}, {where}, {clocks}{_facts(source)}){note}"

    def _view(self, view: View) -> str:
        entities = [self.entities[name] for name in view.entities]
        about = entities[0] if len(entities) == 1 else f"({', '.join(entities)})"
        ttl = format_duration(round(view.ttl_s * SECOND_US)) if view.ttl_s else FOREVER
        note = "" if view.ttl_s else "  # no ttl in Feast"
        names = ", ".join(q(f.name) for f in view.features)
        return (
            f"{self.views[view.name]} = tm.FeatureView({q(view.name)}, {about}, {self.tables[view.source]}, "
            f"[tm.latest({names}, ttl={q(ttl)})]{_facts(view)}){note}"
        )

    def _inputs(self, view: OnDemandView) -> dict[str, str]:
        """Feast's type of each column that the function is given, by its full name here."""
        owners: list[View | OnDemandView] = [*self.fitted.views, *self.fitted.on_demand]
        types = {(v.name, f.name): f.type for v in owners for f in v.features}
        inputs = {f"{p.name}__{name}": types[p.name, name] for p in view.views for name in p.features}
        return inputs | {f.name: f.type for f in view.request}

    def _casts(self, view: OnDemandView) -> dict[str, str]:
        casts = {"Int32": "whole", "Int64": "whole", "Bool": "truth"}
        return {name: casts.get(kind, "") for name, kind in self._inputs(view).items()}

    def _on_demand(self, view: OnDemandView, i: int) -> str:
        output, casts = view.features[i].name, self._casts(view)
        passed = ", ".join(f"{name}={cast}({name})" if cast else f"{name}={name}" for name, cast in casts.items())
        tags = ", ".join(f"{k}={v}" for k, v in view.tags.items())
        told = [view.description, f"Owner: {view.owner}." if view.owner else "", f"Tags: {tags}." if tags else ""]
        doc = " ".join(part for part in told if part).replace("\\", "\\\\").replace('"', "'")
        lines = ["@tm.on_demand", f"def {view.name}__{output}({', '.join(casts)}):"]
        lines += [f'    """{doc}"""'] if doc else []
        return "\n".join([*lines, f"    return {_runner(view)}({view.function}, {q(output)}, {passed})"])

    def _service(self, service: Named, projections: list[Projection]) -> str:
        features: list[str] = []
        whole = {v.name: [f.name for f in v.features] for v in self.fitted.views}
        for p in projections:
            if p.name not in whole:
                features += [f"{p.name}__{name}" for name in p.features]
            elif set(p.features) == set(whole[p.name]):
                features.append(self.views[p.name])
            else:
                features += [q(f"{p.name}:{name}") for name in p.features]
        variable = self._variable(service.name, "service")
        return f"{variable} = tm.FeatureService({q(service.name)}, [{', '.join(features)}]{_facts(service)})"


def _facts(thing: Named) -> str:
    out = "".join(f", {word}={q(value)}" for word, value in (("description", thing.description), ("owner", thing.owner)) if value)
    tags = [f"{k}={v}" if v else k for k, v in thing.tags.items()]
    return out + (f", tags=({', '.join(map(q, tags))},)" if tags else "")


def _runner(view: OnDemandView) -> str:
    return "run_pandas" if view.mode == "pandas" else "run_singleton" if view.singleton else "run_python"


def _functions(fitted: Fitted) -> str:
    imports = [text for text in fitted.code.values() if text.startswith(("import ", "from "))]
    others = [text for text in fitted.code.values() if text not in imports]
    head = f'"""Functions of the on-demand feature views of the Feast repository {fitted.repository.project!r}."""'
    return laid_out([head, *(["\n".join(sorted(set(imports)))] if imports else []), *others])


def _readme(fitted: Fitted, notes: Collection[str]) -> str:
    skipped = f"\nLeft out on purpose: {', '.join(fitted.skipped)}.\n" if fitted.skipped else ""
    listed = "\n".join(f"- {note}" for note in notes)
    return (
        f"# {fitted.repository.project}\n\nImported from a Feast {fitted.repository.feast} repository by `tidemill feast import`.\n\n"
        "    tidemill ingest && tidemill features materialize\n    tidemill features serve --port 6566\n\n"
        f"`tidemill up` does all of that, again and again. What differs from Feast:\n\n{listed}\n{skipped}"
    )
