"""From a commit to something that runs: building and delivering."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CodeState:
    """The code a run had: commit, and the digest of the patch that was not committed ("" when clean). `commit` is "" outside of Git."""

    commit: str
    patch: str
    dirty: bool


class Builder(Protocol):
    """Captures the state of a project's code so that it can be had again.

    Guarantees, each checked by `tidemill.testing.cicd.BuilderContract`:
        whole: `checkout(capture())` gives the files as they were, uncommitted and new ones included, ignored ones not.
        harmless: the working tree and the index are never touched.
    """

    def capture(self, project: Path) -> CodeState:
        """Describe the code now and keep what is needed to restore it."""
        ...

    def checkout(self, project: Path, state: CodeState, into: Path) -> None:
        """Write the code of `state` to the empty folder `into`. Raises `NotFoundError` when the commit is gone."""
        ...


class Deliverer(Protocol):
    """Hands an artifact to where it will run."""

    def deliver(self, artifact: Path, facts: Mapping[str, str]) -> str:
        """Deliver and return the address it can be had from."""
        ...
