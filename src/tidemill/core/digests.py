"""Content addresses: SHA-256 over bytes, files, folders and JSON values, written `sha256:<64 hex>`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PREFIX = "sha256:"


def of_bytes(data: bytes) -> str:
    """Digest of `data`."""
    return PREFIX + hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """Digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return PREFIX + hashlib.file_digest(file, "sha256").hexdigest()


def of_json(value: Any) -> str:
    """Digest of a JSON value; the order of keys does not matter."""
    return of_bytes(canonical_json(value))


def of_tree(files: Mapping[str, str]) -> str:
    """Digest of a folder, from its relative POSIX paths and their files' digests."""
    return of_json(dict(files))


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, UTF-8; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def tree(folder: Path) -> dict[str, str]:
    """Map each file below `folder` (relative POSIX path) to its digest, sorted."""
    paths: Sequence[Path] = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): of_file(p) for p in paths}
