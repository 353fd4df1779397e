"""Which parts of a Feast repository Tidemill can keep, value for value, and why it cannot keep the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.adapters.feast.closure import Module
from tidemill.adapters.feast.repository import Field, Named, OnDemandView, Other, Projection, Repository, Service, Source, View
from tidemill.core.errors import InvalidError, not_found

T = TypeVar("T", View, OnDemandView, Service)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_WORD = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One object that cannot be kept, and why."""

    kind: str
    name: str
    reason: str


@dataclass(slots=True)
class Fitted:
    """What is kept. `schemas` are the columns of each file source, `code` the source text of functions by name, in an order that runs."""

    repository: Repository
    views: list[View] = field(default_factory=list)
    on_demand: list[OnDemandView] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def fit(repository: Repository, folder: Path, *, skip: Collection[str] = (), wider: bool = False) -> Fitted:
    """Sort a repository's objects into those that can be kept and `problems`.

    Args:
        repository: what it defines.
        folder: where it is; relative paths are below it.
        skip: names to leave out on purpose.
        wider: serve 64-bit columns that Feast would round to 32 bits in full.

    Raises:
        NotFoundError: a name in `skip` that nothing has.
    """
    return _Fitter(repository, folder, frozenset(skip), wider).fitted


class _Fitter:
    def __init__(self, repository: Repository, folder: Path, skip: frozenset[str], wider: bool) -> None:
        self.repository, self.folder, self.skip, self.wider = repository, folder, skip, wider
        self.fitted = Fitted(repository)
        self.sources = {s.name: s for s in repository.sources}
        named: list[Named | Other] = [*repository.views, *repository.on_demand, *repository.services, *repository.others]
        for name in sorted(skip - {thing.name for thing in named}):
            raise not_found("object to skip", name, [thing.name for thing in named])
        self.fitted.skipped = sorted(skip)
        self._sort("feature view", repository.views, self.fitted.views, self._view)
        self._sort("on-demand feature view", repository.on_demand, self.fitted.on_demand, self._on_demand)
        self._sort("feature service", repository.services, self.fitted.services, self._service)
        for other in repository.others:
            if other.name not in skip:
                self.fitted.problems.append(Problem(other.kind, other.name, "Tidemill has no equal"))

    def _sort(self, kind: str, things: list[T], kept: list[T], check: Callable[[T], Iterator[str]]) -> None:
        for thing in things:
            if thing.name in self.skip:
                continue
            try:
                reasons = list(check(thing))
            except InvalidError as error:
                reasons = [str(error)]
            self.fitted.problems += [Problem(kind, thing.name, reason) for reason in reasons]
            if not reasons:
                kept.append(thing)

    # feature views

    def _view(self, view: View) -> Iterator[str]:
        if not _NAME.fullmatch(view.name):
            yield "its name must be of lower case letters, digits, '_' and '-' here, and clients ask by name; rename it in Feast first"
        if view.kind != "FeatureView" or view.transformed:
            yield f"it is a {view.kind} with a transformation or aggregation of its own; Tidemill computes windows from the events instead"
            return
        if not view.keys:
            yield "it has no entity"
        if not view.features:
            yield "it has no features"
        yield from self._entities(view)
        yield from self._stream(view)
        source = self.sources.get(view.source)
        if source is None:
            yield "it has no batch source"
            return
        reasons = list(self._source(source))
        yield from reasons
        if not reasons:
            yield from self._columns(view, source)

    def _entities(self, view: View) -> Iterator[str]:
        for entity in self.repository.entities:
            if entity.name in view.entities and not _NAME.fullmatch(entity.name):
                yield f"its entity {entity.name!r} must be of lower case letters, digits, '_' and '-' here"

    def _stream(self, view: View) -> Iterator[str]:
        stream = self.sources.get(view.stream)
        if stream is not None and stream.kind != "PushSource":
            yield f"its stream source {stream.name!r} is a {stream.kind}; only push sources are imported"
        elif stream is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", stream.name):
            yield f"its push source {stream.name!r} must be named with letters, digits, '_', '.' and '-'"

    def _source(self, source: Source) -> Iterator[str]:
        if source.kind != "FileSource":
            yield f"its source {source.name!r} is a {source.kind}; only files are imported, export it to Parquet first"
            return
        if source.format not in ("", "ParquetFormat", "NoneType"):
            yield f"its source {source.name!r} is of format {source.format}; only Parquet is read"
        if source.renamed:
            told = ", ".join(f"{a} to {b}" for a, b in source.renamed.items())
            yield f"its source {source.name!r} renames columns ({told}); rename them in the file"
        if not source.event_time:
            yield f"its source {source.name!r} names no timestamp field"
        if "://" in source.path and not source.path.startswith("file://"):
            yield f"its source {source.name!r} is at {source.path}; only local files are imported"
        elif self._schema(source) is None:
            yield f"its source {source.name!r}: no Parquet file can be read at {self._path(source)}"

    def _path(self, source: Source) -> Path:
        return (self.folder / source.path.removeprefix("file://")).resolve()

    def _schema(self, source: Source) -> pa.Schema | None:
        path = self._path(source)
        file = next(iter(sorted(path.glob("*.parquet"))), path) if path.is_dir() else path
        try:
            return pq.read_schema(file)
        except (OSError, pa.ArrowException):
            return None

    def _columns(self, view: View, source: Source) -> Iterator[str]:
        schema = self._schema(source)
        assert schema is not None
        self.fitted.sources[source.name], self.fitted.paths[source.name] = source, self._path(source)
        for name in filter(None, (source.event_time, source.known_time)):
            if name in schema.names and not pa.types.is_timestamp(schema.field(name).type):
                yield f"column {name!r} is {schema.field(name).type}; a clock must be a timestamp"
        wanted = [*view.keys, source.event_time, *([source.known_time] if source.known_time else []), *(f.name for f in view.features)]
        if missing := [name for name in dict.fromkeys(wanted) if name not in schema.names]:
            yield f"{self._path(source).name} has no column {', '.join(missing)}"
        for entity in self.repository.entities:
            if entity.name in view.entities and entity.key in schema.names:
                kind, known = schema.field(entity.key).type, {"INT32": "Int64", "INT64": "Int64", "STRING": "String"}.get(entity.type)
                if known and mismatch(Field(entity.key, known), kind, wider=False):
                    yield f"entity {entity.name!r} has keys of type {entity.type} and its column {entity.key!r} is {kind}"
        for feature in view.features:
            if feature.name in schema.names and (reason := mismatch(feature, schema.field(feature.name).type, wider=self.wider)):
                yield reason

    # on-demand feature views and services

    def _on_demand(self, view: OnDemandView) -> Iterator[str]:
        for word in (view.name, *(f.name for f in view.features)):
            if not _WORD.fullmatch(word):
                yield f"{word!r} must be a word of lower case letters, digits and '_' here"
        if view.mode not in ("pandas", "python"):
            yield f"its mode is {view.mode}; only pandas and python are imported"
        if view.stored or view.aggregated:
            yield "it is stored or aggregated on write; here it is computed when it is read"
        if not view.views and not view.request:
            yield "it reads nothing"
        for projection in view.views:
            yield from self._projection(projection)
        for read in view.request:
            if not read.name.isidentifier():
                yield f"it reads the request column {read.name!r}, which is no name of a parameter"
        yield from self._function(view)

    def _function(self, view: OnDemandView) -> Iterator[str]:
        if not view.function:
            yield "its transformation is no plain function"
            return
        for name, text in Module(Path(view.file), self.folder).function(view.function):
            if self.fitted.code.setdefault(name, text) != text:
                yield f"two files of the repository define {name!r} differently"

    def _service(self, service: Service) -> Iterator[str]:
        if not _NAME.fullmatch(service.name):
            yield "its name must be of lower case letters, digits, '_' and '-' here, and clients ask by name; rename it in Feast first"
        for projection in service.views:
            yield from self._projection(projection)

    def _projection(self, projection: Projection) -> Iterator[str]:
        if projection.alias and projection.alias != projection.name:
            yield f"it reads {projection.name!r} under the other name {projection.alias!r}"
        if projection.keys_renamed:
            yield f"it joins {projection.name!r} by other key columns ({projection.keys_renamed})"
        if projection.version:
            yield f"it pins version {projection.version} of {projection.name!r}; Tidemill's versions begin with the import"
        if projection.name not in [v.name for v in (*self.fitted.views, *self.fitted.on_demand)]:
            yield f"it reads {projection.name!r}, which is not kept"


_WHOLE, _FLOAT = ("Int32", "Int64"), ("Float32", "Float64")


def mismatch(feature: Field, kind: pa.DataType, *, wider: bool) -> str:
    """Why a column of type `kind` would be served with other values than Feast's; empty when it would not."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    fits = (
        (feature.type in _WHOLE and types.is_integer(kind) and not (feature.type == "Int32" and kind.bit_width > 32))
        or (feature.type == "Float64" and (types.is_floating(kind) or types.is_integer(kind)))
        or (feature.type == "Float32" and (types.is_float32(kind) or types.is_float16(kind)))
        or (feature.type == "String" and (types.is_string(kind) or types.is_large_string(kind)))
        or (feature.type == "Bool" and types.is_boolean(kind))
        or (feature.type == "UnixTimestamp" and types.is_timestamp(kind))
    )
    narrowed = (feature.type == "Float32" and (types.is_floating(kind) or types.is_integer(kind))) or (
        feature.type == "Int32" and types.is_integer(kind)
    )
    if fits or (narrowed and wider):
        return ""
    if narrowed:
        return f"feature {feature.name!r} is {feature.type} and its column {kind}; Feast rounds to 32 bits, --wider serves it in full"
    if feature.type not in (*_WHOLE, *_FLOAT, "String", "Bool", "UnixTimestamp"):
        return f"feature {feature.name!r} is of type {feature.type}; only numbers, texts, truth values and times are imported"
    return f"feature {feature.name!r} is {feature.type} and its column {kind}; Feast converts it, so the values would differ"
