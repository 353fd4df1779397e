"""PyTorch's programs behind the server, in processes apart from it."""

from __future__ import annotations

from tidemill.adapters.torch import archive
from tidemill.adapters.torch.calls import caller
from tidemill.core.errors import InvalidError, RefusedError
from tidemill.core.policy import ModelPolicy
from tidemill.serving.ports import Artifact, Scoring


class TorchReader:
    """The `FlavorReader` of `tidemill_torch`: the artifact is a graph of PyTorch's operators and its numbers."""

    def __init__(self, policy: ModelPolicy) -> None:
        self._policy = policy

    def read(self, artifact: Artifact) -> Scoring:
        """See `FlavorReader.read`."""
        path = artifact.file(artifact.flavor.get("data"), archive.NATIVE)
        try:
            return Scoring(caller(path.read_bytes(), self._policy), apart=True)
        except InvalidError as error:
            raise RefusedError(f"{path.name} is refused: {error}") from error


def open_reader(policy: ModelPolicy) -> TorchReader:
    """The entry point. Nothing of the artifact is code; the policy says which interpreter has PyTorch, and how long a call may take."""
    return TorchReader(policy)
