"""A service's model as a custom runtime of MLServer."""

from __future__ import annotations

from collections.abc import Mapping

from tidemill.cicd.export import Export, dockerfile, runtime_files


def files(export: Export) -> Mapping[str, str]:
    """`runtime.py`, `model-settings.json`, `settings.json` and a Dockerfile."""
    return {**runtime_files(export), "Dockerfile": dockerfile(8080, ["mlserver"], ["start", "."])}
