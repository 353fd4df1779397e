"""A service's model as a FastAPI application."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tidemill.cicd.export import Export, dockerfile, identifier

_APP = '''"""{service} on FastAPI: POST /predict, docs at /docs. Run: uvicorn app:app"""

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

import scoring


class Row(BaseModel):
    """What the model reads of one row. Nulls are allowed, other columns are not."""

    model_config = ConfigDict(extra="forbid")

{fields}


class Rows(BaseModel):
    rows: list[Row] = Field(max_length=10_000)


class Scores(BaseModel):
    scores: list[float]
    model: str = "{uri}"


app = FastAPI(title="{service}", version="{version}")


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {{"status": "ok"}}


@app.post("/predict")
def predict(body: Rows) -> Scores:
    return Scores(scores=scoring.predict([row.model_dump(by_alias=True) for row in body.rows]))
'''


def files(export: Export) -> Mapping[str, str]:
    """`app.py` with the columns as a pydantic model."""
    return {
        "app.py": _APP.format(
            service=export.service, uri=export.version.uri, version=export.version.version, fields="\n".join(_field(export, name) for name in export.features)
        ),
        "requirements.txt": "fastapi>=0.115\nuvicorn>=0.30\n",
        "Dockerfile": dockerfile(8000, ["uvicorn", "app:app"], ["--host", "0.0.0.0", "--port", "8000"]),  # noqa: S104 - inside of a container
        "request.json": json.dumps({"rows": [export.example]}, indent=1) + "\n",
    }  # fmt: skip


def _field(export: Export, name: str) -> str:
    kind = "str | None" if name in export.texts else "float | None"
    plain = identifier(name)
    safe = plain == name and not name.startswith("model_")
    return f"    {name}: {kind}" if safe else f"    column_{plain}: {kind} = Field(alias={name!r})"
