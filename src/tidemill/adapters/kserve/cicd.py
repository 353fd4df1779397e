"""A service's model as a custom predictor of KServe, with its InferenceService."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tidemill.cicd.export import Export, dockerfile, identifier, manifest

_MODEL = '''"""{service} on KServe: POST /v1/models/{service}:predict with {{"instances": [{{column: value}}]}}. Run: python model.py"""

import argparse

from kserve import Model, ModelServer, model_server
from kserve.errors import InvalidInput


class {name}(Model):
    """{uri}"""

    def load(self) -> bool:
        import scoring

        self.scoring = scoring
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):
        try:
            return {{"predictions": self.scoring.predict(payload["instances"])}}
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(str(error)) from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    args, _ = parser.parse_known_args()
    model = {name}("{service}")
    model.load()
    ModelServer().start([model])
'''


def files(export: Export) -> Mapping[str, str]:
    """`model.py`, a Dockerfile and `inferenceservice.yaml`."""
    name = identifier(export.service).lower().replace("_", "-")
    container = {
        "name": "kserve-container",
        "image": f"{name}:{export.version.version}",
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
    }
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"tidemill/model": export.version.uri, "tidemill/digest": export.version.digest}},
        "spec": {"predictor": {"containers": [container]}},
    }
    return {
        "model.py": _MODEL.format(service=export.service, uri=export.version.uri, name=identifier(export.service, capital=True)),
        "inferenceservice.yaml": manifest(document),
        "Dockerfile": dockerfile(8080, ["python", "model.py"], ["--http_port", "8080"]),
        "requirements.txt": "kserve>=0.13\n",
        "request.json": json.dumps({"instances": [export.example]}, indent=1) + "\n",
    }
