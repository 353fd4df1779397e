"""A service's model as a BentoML service."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tidemill.cicd.export import Export, identifier, manifest

_SERVICE = '''"""{service} on BentoML. Run: bentoml serve service:{name}; build: bentoml build"""

from typing import Any

import bentoml

import scoring


@bentoml.service(name="{label}", traffic={{"timeout": 10}})
class {name}:
    """{uri}"""

    @bentoml.api(batchable=True)
    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        try:
            return scoring.predict(rows)
        except ValueError as error:
            raise bentoml.exceptions.InvalidArgument(str(error)) from error
'''


def files(export: Export) -> Mapping[str, str]:
    """`service.py` and `bentofile.yaml`."""
    name = identifier(export.service, capital=True)
    bento = {
        "service": f"service:{name}",
        "labels": {"model": export.version.uri, "digest": export.version.digest[7:71]},
        "include": ["*.py", "model/*", "model.digest"],
        "python": {"requirements_txt": "requirements.txt"},
    }
    return {
        "service.py": _SERVICE.format(service=export.service, uri=export.version.uri, name=name, label=identifier(export.service).lower()),
        "bentofile.yaml": manifest(bento),
        "requirements.txt": "bentoml>=1.4\n",
        "request.json": json.dumps({"rows": [export.example]}, indent=1) + "\n",
    }
