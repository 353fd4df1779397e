"""A project folder becomes definitions: its `definitions.py` is imported and the values in it are collected by name."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tidemill.core import digests
from tidemill.core.definitions import Definitions, Entity, FeatureService, FeatureView, Label, OnDemand, Service, Table
from tidemill.core.errors import InvalidError, NotFoundError

MODULE = "definitions"


class _Loaded:
    """What this process has imported: one project at a time, because modules are named the same in every project."""

    project: Path | None = None
    digests: Mapping[str, str] = {}
    definitions: Definitions = Definitions()


def find_project(path: Path) -> Path:
    """The nearest folder at or above `path` with a `definitions.py`. Raises `NotFoundError`."""
    start = path.resolve()
    for folder in (start, *start.parents):
        if (folder / f"{MODULE}.py").is_file():
            return folder
    raise NotFoundError(f"no {MODULE}.py in {start} or above it; `tidemill init NAME` makes a project, --project names one")


def load_definitions(project: Path) -> Definitions:
    """Import `definitions.py` of `project` and collect what it defines.

    The module is named `definitions` in every project and its folder comes first on `sys.path`, so steps can be imported by name in
    other processes. A project whose files have not changed is not imported again; opening another project replaces the modules.

    Raises:
        NotFoundError: there is no `definitions.py`.
        InvalidError: it raises (with file and line), defines a name twice, or its parts do not fit together.
    """
    project = project.resolve()
    if not (project / f"{MODULE}.py").is_file():
        raise NotFoundError(f"{project} has no {MODULE}.py; `tidemill init NAME` writes a project to start from")
    if project == _Loaded.project and _Loaded.digests == _digests(_Loaded.digests):
        return _Loaded.definitions
    # Before the project loads LightGBM: OpenMP threads that spin while they wait make a fit ten times slower beside a busy server.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _forget()
    before = set(sys.modules)
    module = _import(project)
    _Loaded.project, _Loaded.digests = project, _digests(_own(project, set(sys.modules) - before))
    _Loaded.definitions = collect(vars(module), f"{project.name}/{MODULE}.py")
    return _Loaded.definitions


def _forget() -> None:
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in _Loaded.digests or name == MODULE:
            del sys.modules[name]
    if _Loaded.project is not None and str(_Loaded.project) in sys.path:
        sys.path.remove(str(_Loaded.project))
    _Loaded.project, _Loaded.digests = None, {}


def _import(project: Path) -> ModuleType:
    sys.path.insert(0, str(project))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(MODULE)
    except Exception as error:  # user code may raise anything; it is reported with its place
        sys.modules.pop(MODULE, None)
        sys.path.remove(str(project))
        raise InvalidError(f"{_place(project, error)}: {type(error).__name__}: {error}") from error


def _place(project: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(project)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(project / f"{MODULE}.py")


def _own(project: Path, names: Iterable[str]) -> list[str]:
    files = [getattr(sys.modules.get(n), "__file__", None) for n in names]
    return [f for f in files if f and Path(f).is_relative_to(project) and "site-packages" not in Path(f).parts]


def _digests(files: Iterable[str]) -> dict[str, str]:
    return {f: digests.of_file(Path(f)) if Path(f).is_file() else "" for f in files}


def collect(values: Mapping[str, Any], where: str) -> Definitions:
    """Sort module-level `values` into definitions by their own names; `where` is named in errors."""
    from tidemill.pipelines import Pipeline

    found: list[Any] = [v for k, v in values.items() if not k.startswith("__")]
    services = [v for v in found if isinstance(v, Service)]
    sets: list[FeatureService] = [v for v in found if isinstance(v, FeatureService)]
    named: list[Service | FeatureService] = [*services, *sets]
    views = [v for v in found if isinstance(v, FeatureView)] + [v for s in named for v in s.views]
    on_demand = [v for v in found if isinstance(v, OnDemand)] + [v for s in named for v in s.on_demand]
    labels = [v for v in found if isinstance(v, Label)] + [s.label for s in services]
    tables = [v for v in found if isinstance(v, Table)] + [v.table for v in views] + [v.table for v in labels] + [s.spine for s in services]
    pipelines = [v for v in found if isinstance(v, Pipeline)] + [s.pipeline for s in services if s.pipeline is not None]
    _by_name("entity", [v for v in found if isinstance(v, Entity)], where)
    made = Definitions(
        tables=_by_name("table", tables, where),
        views=_by_name("feature view", views, where),
        labels=_by_name("label", labels, where),
        services=_by_name("service", services, where),
        pipelines=_by_name("pipeline", pipelines, where),
        on_demand=_by_name("on-demand feature", on_demand, where),
        feature_services=_by_name("feature service", sets, where),
    )
    for service in services:
        _fits(service, where)
    return made


def _by_name(kind: str, values: Sequence[Any], where: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for value in values:
        if out.setdefault(value.name, value) is not value:
            raise InvalidError(f"{where}: two different values define the {kind} {value.name!r}; give one of them another name")
    return out


def _fits(service: Service, where: str) -> None:
    twice = sorted({c for c in service.columns if service.columns.count(c) > 1})
    if twice:
        raise InvalidError(f"{where}: service {service.name!r} has the feature {', '.join(twice)} twice; remove one")
    made: set[str] = set(service.request_columns) | {c for v in service.views for c in v.columns}
    for feature in service.on_demand:
        if late := [i for i in feature.inputs if i not in made and i in service.columns]:
            raise InvalidError(
                f"{where}: {feature.name} reads {', '.join(late)}, which service {service.name!r} lists after it; move it up"
            )
        made.add(feature.name)


def missing_columns(definitions: Definitions, columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Say which columns the definitions name that the tables lack; `columns` holds the tables that have rows already."""
    wanted: list[tuple[str, str, str]] = []
    for table in definitions.tables.values():
        wanted += [(table.name, c, f"table {table.name!r}") for c in (table.event_time, table.known_time, *table.keys)]
    for view in definitions.views.values():
        names = (*view.keys, *(a.column for a in view.aggregates if a.column))
        wanted += [(view.table.name, c, f"feature view {view.name!r}") for c in names]
    for service in definitions.services.values():
        wanted += [(service.spine.name, c, f"service {service.name!r}") for c in (service.key, *service.request_columns)]
        wanted.append((service.label.table.name, service.label.key, f"label {service.label.name!r}"))
    lacking = [(t, c, who) for t, c, who in dict.fromkeys(wanted) if t in columns and c not in columns[t]]
    return [f"{who} needs the column {c!r}, which table {t!r} does not have; it has {', '.join(columns[t])}" for t, c, who in lacking]
