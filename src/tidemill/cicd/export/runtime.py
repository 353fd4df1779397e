"""A custom runtime of MLServer: what MLServer itself and Seldon Core, which runs it, are given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tidemill.cicd.export.code import Export

_RUNTIME = '''"""{service} on MLServer: one input tensor a column, as the Open Inference Protocol has it. Run: mlserver start ."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse


class ServiceModel(MLModel):
    """{uri}"""

    async def load(self) -> bool:
        import scoring

        self._scoring = scoring
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = {{}}
        for tensor in payload.inputs:
            data = list(tensor.data)
            columns[tensor.name] = StringCodec.decode_input(tensor) if tensor.datatype == "BYTES" else data
        try:
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            scores = self._scoring.predict(rows)
        except ValueError as error:
            raise MLServerError(str(error), status_code=400) from error
        import numpy as np

        output = NumpyCodec.encode_output("score", np.asarray(scores, dtype=np.float64))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
'''


def request(export: Export) -> dict[str, Any]:
    """The example row as a request of the Open Inference Protocol."""

    def tensor(name: str, value: Any) -> dict[str, Any]:
        text = name in export.texts
        return {
            "name": name,
            "datatype": "BYTES" if text else "FP64",
            "shape": [1],
            "data": [value if text or value is None else float(value)],
        }

    return {"inputs": [tensor(name, value) for name, value in export.example.items()]}


def runtime_files(export: Export) -> Mapping[str, str]:
    """`runtime.py`, `model-settings.json` and `settings.json`."""
    inputs = [{"name": n, "datatype": "BYTES" if n in export.texts else "FP64", "shape": [-1]} for n in export.features]
    model = {
        "name": export.service,
        "implementation": "runtime.ServiceModel",
        "inputs": inputs,
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [-1]}],
        "parameters": {"version": str(export.version.version)},
    }
    return {
        "runtime.py": _RUNTIME.format(service=export.service, uri=export.version.uri),
        "model-settings.json": json.dumps(model, indent=1) + "\n",
        "settings.json": json.dumps({"parallel_workers": 0}, indent=1) + "\n",
        "requirements.txt": "mlserver>=1.6\n",
        "request.json": json.dumps(request(export), indent=1) + "\n",
    }
