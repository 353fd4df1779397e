"""Run by the Python that has Feast: prints what a feature repository defines, as JSON. Imports nothing of Tidemill.

python describe.py REPOSITORY
"""

import inspect
import json
import os
import sys
import types
from pathlib import Path
from typing import Any


def describe(repository: Path) -> dict[str, Any]:
    """Everything that the repository defines, schemas inferred as `feast apply` would."""
    import feast
    from feast.repo_operations import parse_repo

    os.chdir(repository)
    sys.path.insert(0, str(repository))
    contents = parse_repo(repository)
    store = feast.FeatureStore(repo_path=str(repository))
    store._make_inferences(
        contents.data_sources,
        contents.entities,
        contents.feature_views,
        contents.on_demand_feature_views,
        contents.stream_feature_views,
        contents.feature_services,
    )
    return {
        "feast": feast.__version__,
        "project": store.project,
        "entities": [_entity(e) for e in contents.entities if e.name != "__dummy"],
        "sources": [_source(s) for s in contents.data_sources],
        "views": [_view(v) for v in [*contents.feature_views, *contents.stream_feature_views]],
        "on_demand": [_on_demand(v) for v in contents.on_demand_feature_views],
        "services": [_service(s) for s in contents.feature_services],
        "others": [
            {"kind": kind, "name": str(o.name)}
            for kind, group in (("permission", contents.permissions), ("label view", getattr(contents, "label_views", ())))
            for o in group
        ],
    }


def _facts(thing: Any) -> dict[str, Any]:
    return {
        "name": str(thing.name),
        "kind": type(thing).__name__,
        "description": getattr(thing, "description", "") or "",
        "owner": getattr(thing, "owner", "") or "",
        "tags": {str(k): str(v) for k, v in (getattr(thing, "tags", None) or {}).items()},
    }


def _entity(entity: Any) -> dict[str, Any]:
    return {**_facts(entity), "key": entity.join_key, "type": getattr(entity.value_type, "name", str(entity.value_type))}


def _source(source: Any) -> dict[str, Any]:
    batch = getattr(source, "batch_source", None)
    form = getattr(getattr(source, "file_options", None), "file_format", None) or getattr(source, "file_format", None)
    return {
        **_facts(source),
        "path": str(getattr(source, "path", "") or ""),
        "format": type(form).__name__ if form is not None else "",
        "event_time": getattr(source, "timestamp_field", "") or "",
        "known_time": getattr(source, "created_timestamp_column", "") or "",
        "renamed": dict(getattr(source, "field_mapping", None) or {}),
        "batch": batch.name if batch is not None else "",
    }


def _fields(fields: Any) -> list[dict[str, Any]]:
    return [{"name": f.name, "type": str(f.dtype)} for f in fields or ()]


def _view(view: Any) -> dict[str, Any]:
    udf = getattr(view, "feature_transformation", None) or getattr(view, "udf", None)
    return {
        **_facts(view),
        "entities": [e for e in view.entities if e != "__dummy"],
        "keys": [f.name for f in view.entity_columns if f.name != "__dummy_id"],
        "ttl_s": view.ttl.total_seconds() if view.ttl else 0.0,
        "source": view.batch_source.name if view.batch_source is not None else "",
        "stream": view.stream_source.name if getattr(view, "stream_source", None) is not None else "",
        "transformed": udf is not None or bool(getattr(view, "aggregations", None)) or bool(getattr(view, "source_views", None)),
        "online": bool(getattr(view, "online", True)),
        "features": _fields(view.features),
    }


def _on_demand(view: Any) -> dict[str, Any]:
    function: Any = getattr(view.feature_transformation, "udf", None)
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    plain = isinstance(function, types.FunctionType)
    return {
        **_facts(view),
        "mode": str(getattr(view.mode, "value", view.mode)),
        "singleton": bool(getattr(view, "singleton", False)),
        "stored": bool(getattr(view, "write_to_online_store", False)),
        "aggregated": bool(getattr(view, "aggregations", None)),
        "function": function.__name__ if plain else "",
        "file": inspect.getsourcefile(function) or "" if plain else "",
        "features": _fields(view.features),
        "views": [_projection(p) for p in view.source_feature_view_projections.values()],
        "request": [f for s in view.source_request_sources.values() for f in _fields(s.schema)],
    }


def _projection(projection: Any) -> dict[str, Any]:
    return {
        "name": projection.name,
        "alias": projection.name_alias or "",
        "features": [f.name for f in projection.features],
        "keys_renamed": dict(projection.join_key_map or {}),
        "version": getattr(projection, "version_tag", None) or 0,
    }


def _service(service: Any) -> dict[str, Any]:
    return {**_facts(service), "views": [_projection(p) for p in service.feature_view_projections]}


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # what the repository prints is no JSON
    json.dump(describe(Path(sys.argv[1]).resolve()), out)
