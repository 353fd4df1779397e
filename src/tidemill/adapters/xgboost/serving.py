"""XGBoost's models behind the server."""

from __future__ import annotations

from tidemill.adapters.xgboost.boosters import Trees
from tidemill.core.errors import InvalidError, RefusedError
from tidemill.core.policy import ModelPolicy
from tidemill.serving.ports import Artifact, Scoring


class XgboostReader:
    """The `FlavorReader` of MLflow's flavor `xgboost`, in JSON or UBJSON."""

    def read(self, artifact: Artifact) -> Scoring:
        """See `FlavorReader.read`."""
        path = artifact.file(artifact.flavor.get("data"), "model.ubj")
        try:
            trees = Trees(path.read_bytes())
        except InvalidError as error:
            raise RefusedError(f"XGBoost refuses {path.name}: {error}") from error
        if trees.width != len(artifact.features):
            raise RefusedError(f"{path.name} takes {trees.width} features, the model lists {len(artifact.features)}")
        return Scoring(trees.scores, trees.contributions)


def open_reader(_policy: ModelPolicy) -> XgboostReader:
    """The entry point. There is nothing to allow: the format cannot hold code."""
    return XgboostReader()
