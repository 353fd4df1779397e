"""A service's model for Seldon Core: a runtime of MLServer, which is Seldon's own server of Python models, and the SeldonDeployment around it."""

from __future__ import annotations

from collections.abc import Mapping

from tidemill.cicd.export import Export, dockerfile, identifier, manifest, runtime_files

_HTTP, _GRPC = 9000, 9500


def files(export: Export) -> Mapping[str, str]:
    """What MLServer needs, a Dockerfile and `seldondeployment.yaml` (protocol v2)."""
    label = identifier(export.service).lower().replace("_", "-")
    container = {
        "name": label,
        "image": f"{label}:{export.version.version}",
        "env": [{"name": "MLSERVER_HTTP_PORT", "value": str(_HTTP)}, {"name": "MLSERVER_GRPC_PORT", "value": str(_GRPC)}],
        "ports": [{"name": "http", "containerPort": _HTTP}, {"name": "grpc", "containerPort": _GRPC}],
    }
    document = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": label, "annotations": {"tidemill/model": export.version.uri, "tidemill/digest": export.version.digest}},
        "spec": {
            "protocol": "v2",
            "predictors": [
                {
                    "name": "default",
                    "replicas": 1,
                    "componentSpecs": [{"spec": {"containers": [container]}}],
                    "graph": {"name": label, "type": "MODEL"},
                }
            ],
        },
    }
    return {
        **runtime_files(export),
        "seldondeployment.yaml": manifest(document),
        "Dockerfile": dockerfile(_HTTP, ["mlserver"], ["start", "."]),
    }
