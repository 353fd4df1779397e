"""A service's model as a Flask application."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tidemill.cicd.export import Export, dockerfile

_APP = '''"""{service} on Flask: POST /predict. Run: waitress-serve --call app:create_app"""

from flask import Flask, jsonify, request

import scoring


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 8 * 1024 * 1024

    @app.get("/healthz")
    def healthz():
        return jsonify(status="ok")

    @app.post("/predict")
    def predict():
        body = request.get_json(silent=True)
        rows = body.get("rows") if isinstance(body, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return jsonify(error="send JSON: {{\\"rows\\": [{{column: value}}]}}"), 400
        try:
            return jsonify(scores=scoring.predict(rows), model="{uri}")
        except ValueError as error:
            return jsonify(error=str(error)), 400

    return app
'''


def files(export: Export) -> Mapping[str, str]:
    """`app.py` with an application factory."""
    return {
        "app.py": _APP.format(service=export.service, uri=export.version.uri),
        "requirements.txt": "flask>=3.0\nwaitress>=3.0\n",
        "Dockerfile": dockerfile(8000, ["waitress-serve", "--call"], ["--host=0.0.0.0", "--port=8000", "app:create_app"]),
        "request.json": json.dumps({"rows": [export.example]}, indent=1) + "\n",
    }
