"""The text of an exported repository."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa

from tidemill.adapters.feast.importer import FOREVER_US
from tidemill.adapters.feast.outfunctions import Exported
from tidemill.adapters.feast.points import is_plain
from tidemill.adapters.feast.spelling import facts, feast_type, q, variable
from tidemill.core.definitions import Definitions, FeatureService, FeatureView, OnDemand, Service
from tidemill.core.instants import SECOND_US


class Texts:
    """Writes feature_store.yaml and definitions.py."""

    def __init__(
        self,
        definitions: Definitions,
        views: Sequence[FeatureView],
        rows: Mapping[str, pa.Table],
        functions: Exported,
        skip: Collection[str],
        project: str,
    ) -> None:
        self._definitions, self._views, self._rows, self._functions, self._project = definitions, views, rows, functions, project
        found: list[Service | FeatureService] = [*definitions.feature_services.values(), *definitions.services.values()]
        self.services = [s for s in found if s.name not in skip]
        self._known = {v.name for v in views}
        self._outputs = {full for made in functions.views.values() for full in made.outputs}

    def refused(self) -> Iterator[tuple[str, str]]:
        """Services that name what is not exported, each with the reason."""
        for service in self.services:
            for feature in service.features:
                if isinstance(feature, FeatureView) and feature.name not in self._known:
                    yield service.name, f"it reads feature view {feature.name!r}, which is not exported"
                elif isinstance(feature, OnDemand) and feature.name not in self._outputs:
                    yield service.name, f"it reads on-demand feature {feature.name!r}, which is not exported"
                elif isinstance(feature, str) and isinstance(service, FeatureService) and self._owner(feature) is None:
                    yield service.name, f"it reads {feature!r}, which is not exported"

    def _owner(self, reference: str) -> str | None:
        owner, _, feature = reference.partition(":")
        known = owner in self._known or f"{owner}__{feature}" in self._outputs or (owner == feature and owner in self._outputs)
        return owner if known else None

    def store(self) -> str:
        """feature_store.yaml, for one machine."""
        return (
            f"project: {self._project}\nprovider: local\nregistry: data/registry.db\nonline_store:\n  type: sqlite\n  path: data/online.db\n"
            "offline_store:\n  type: duckdb # pip install 'feast[duckdb]'; the default store loses rows of training sets\n"
            "entity_key_serialization_version: 3\n"
        )

    def definitions(self) -> str:
        """definitions.py."""
        entities = {e.name: e for v in self._views for e in v.entities}
        blocks = [
            [self._entity(name) for name in entities],
            [line for v in self._views for line in self._view(v)],
            list(self._functions.declared()),
            [self._service(s) for s in self.services],
        ]
        head = [f'"""Features of the Tidemill project {self._project}, written by `tidemill feast export`."""\n', *self._imports()]
        return "\n".join(head) + "\n\n" + "\n\n".join("\n".join(b) for b in blocks if b) + "\n"

    def _imports(self) -> list[str]:
        names = [
            "Entity",
            "FeatureService",
            "FeatureView",
            "Field",
            "FileSource",
            *(["RequestSource"] if self._functions.request else []),
            "ValueType",
        ]
        lines = ["from datetime import timedelta", ""]
        if self._functions.views:
            lines.append("import pandas as pd")
        lines.append(f"from feast import {', '.join(sorted(names))}")
        if self._functions.views:
            lines.append("from feast.on_demand_feature_view import on_demand_feature_view")
        return [*lines, "from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp"]

    def _entity(self, name: str) -> str:
        view = next(v for v in self._views if name in [e.name for e in v.entities])
        entity = next(e for e in view.entities if e.name == name)
        kind = {"String": "STRING", "Int32": "INT64", "Int64": "INT64"}.get(
            feast_type(self._rows[view.name].schema.field(entity.key).type) or ""
        )
        typed = f", value_type=ValueType.{kind}" if kind else ""
        return f"{variable('entity', name)} = Entity(name={q(name)}, join_keys=[{q(entity.key)}]{typed}{facts(entity)})"

    def _view(self, view: FeatureView) -> Iterator[str]:
        schema, plain = self._rows[view.name].schema, is_plain(view)
        clock = view.table.event_time if plain else "changed"
        created = f", created_timestamp_column={q(view.table.known_time)}" if plain and view.table.known_time != clock else ""
        source, ttl = variable("source", view.name), view.aggregates[0].ttl_us if plain and view.aggregates[0].ttl_us < FOREVER_US else 0
        fields = [f"Field(name={q(n)}, dtype={feast_type(schema.field(n).type)})" for n in (*view.keys, *(a.name for a in view.aggregates))]
        spelled = f"timedelta(seconds={ttl / SECOND_US:g})" if ttl % SECOND_US else f"timedelta(seconds={ttl // SECOND_US})"
        yield f"{source} = FileSource(name={q(view.name + '_rows')}, path={q(f'data/{view.name}.parquet')}, timestamp_field={q(clock)}{created})"
        yield f"{variable('view', view.name)} = FeatureView("
        yield f"    name={q(view.name)}, entities=[{', '.join(variable('entity', e.name) for e in view.entities)}], ttl={spelled}, source={source},"
        yield f"    schema=[{', '.join(fields)}]{facts(view)},"
        yield ")"

    def _service(self, service: Service | FeatureService) -> str:
        picked: dict[str, list[str] | None] = {}
        for feature in service.features:
            if isinstance(feature, FeatureView):
                picked[variable("view", feature.name)] = None
            elif isinstance(feature, OnDemand):
                _pick(picked, *self._functions.place(feature.name))
            elif isinstance(service, FeatureService):
                owner, _, name = feature.partition(":")
                _pick(picked, variable("view" if owner in self._known else "on_demand", owner), name)
        spelled = [v if names is None else f"{v}[[{', '.join(map(q, names))}]]" for v, names in picked.items()]
        return (
            f"{variable('service', service.name)} = FeatureService(name={q(service.name)}, features=[{', '.join(spelled)}]{facts(service)})"
        )


def _pick(picked: dict[str, list[str] | None], owner: str, name: str) -> None:
    names = picked.setdefault(owner, [])
    if names is not None and name not in names:
        names.append(name)
