"""Secrets are references, `env:NAME` or `file:PATH`; what they point to is read when it is needed and never kept or shown."""

from __future__ import annotations

import os
from pathlib import Path

from tidemill.core.errors import ConfigError


def resolve(reference: str, setting: str) -> str:
    """The secret that `reference` names.

    Args:
        reference: `env:NAME` or `file:PATH`; of a file the first line counts.
        setting: named in errors, `stack.online`.

    Raises:
        ConfigError: it is no reference, or names nothing. The text itself is not repeated, as it may be a secret.
    """
    scheme, colon, rest = reference.partition(":")
    if not colon or scheme not in ("env", "file") or not rest:
        raise ConfigError(f"{setting}: write the password as a reference, env:NAME or file:PATH, never in clear")
    if scheme == "env":
        if rest not in os.environ:
            raise ConfigError(f"{setting}: the environment has no variable {rest}; set it to the password")
        return os.environ[rest]
    try:
        return Path(rest).read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except OSError as error:
        raise ConfigError(f"{setting}: the password's file {rest} cannot be read: {error.strerror}") from error
