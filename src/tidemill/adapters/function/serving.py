"""Functions of the project behind the server, in processes apart from it."""

from __future__ import annotations

from tidemill.adapters.function.calls import caller
from tidemill.core.errors import InvalidError, RefusedError
from tidemill.core.policy import ModelPolicy
from tidemill.serving.ports import Artifact, Scoring


class FunctionReader:
    """The `FlavorReader` of `tidemill_function`: the artifact names a function, the project has its code."""

    def __init__(self, policy: ModelPolicy) -> None:
        self._policy = policy

    def read(self, artifact: Artifact) -> Scoring:
        """See `FlavorReader.read`."""
        path = artifact.file(artifact.flavor.get("data"), "function.zip")
        try:
            return Scoring(caller(path.read_bytes(), artifact.features, artifact.categories, self._policy), apart=True)
        except InvalidError as error:
            raise RefusedError(f"{path.name} is refused: {error}") from error


def open_reader(policy: ModelPolicy) -> FunctionReader:
    """The entry point."""
    return FunctionReader(policy)
