"""scikit-learn's models behind the server."""

from __future__ import annotations

from functools import partial

from tidemill.adapters.sklearn import estimators
from tidemill.core.errors import InvalidError, RefusedError
from tidemill.core.policy import ModelPolicy
from tidemill.serving.ports import Artifact, Scoring


class SklearnReader:
    """The `FlavorReader` of MLflow's flavor `sklearn` in the format skops."""

    def __init__(self, policy: ModelPolicy) -> None:
        self._trusted = policy.trusted_types

    def read(self, artifact: Artifact) -> Scoring:
        """See `FlavorReader.read`. What the artifact says of trusted types is not asked."""
        path = artifact.file(artifact.flavor.get("pickled_model"), "model.skops")
        try:
            estimator = estimators.load(path.read_bytes(), self._trusted)
        except InvalidError as error:
            raise RefusedError(f"{path.name} is refused: {error}") from error
        width = getattr(estimator, "n_features_in_", len(artifact.features))
        if width != len(artifact.features):
            raise RefusedError(f"{path.name} takes {width} features, the model lists {len(artifact.features)}")
        return Scoring(partial(estimators.scores, estimator))


def open_reader(policy: ModelPolicy) -> SklearnReader:
    """The entry point."""
    return SklearnReader(policy)
