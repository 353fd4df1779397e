"""Files and folders by the digest of what they hold, in a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

from tidemill.core import digests
from tidemill.core.errors import CorruptError, InvalidError, NotFoundError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PIECE = 1 << 20


class FileBlobStore:
    """A `BlobStore` in a folder: `<root>/ab/abcd…` is a file or a folder, and a folder's digests stand beside it in `abcd….tree`.

    Content is copied to `<root>/tmp`, synced and renamed, so a name either has its whole content or does not exist. What was verified
    once is hashed again by this process only when its inode, time or size has changed.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        self._tmp = self._root / "tmp"
        self._tmp.mkdir(parents=True, exist_ok=True)
        self._seen: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._lock = threading.Lock()

    def put(self, source: Path | bytes) -> str:
        work = Path(mkdtemp(dir=self._tmp))
        try:
            if isinstance(source, bytes):
                return self._keep_file(*_write(work / "file", iter((source,))))
            if source.is_dir():
                return self._keep_tree(source, work)
            if source.is_file():
                return self._keep_file(*_write(work / "file", _pieces(source)))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        raise NotFoundError(f"there is no file or folder {source} to store")

    def fetch(self, digest: str) -> Path:
        path = self._path(digest)
        if path.is_dir():
            self._check_tree(path, digest)
        elif path.is_file():
            found = self._digest(path)
            if found != digest:
                raise CorruptError(
                    f"{path} should have the digest {digest} but has {found}; remove it and make it again, or restore a backup"
                )
        else:
            raise _missing(digest)
        return path

    def size_bytes(self, digest: str) -> int:
        path = self._path(digest)
        if path.is_dir():
            return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        if path.is_file():
            return path.stat().st_size
        raise _missing(digest)

    def remove(self, digests: Sequence[str]) -> int:
        freed = 0
        for digest in digests:
            path = self._path(digest)
            if not path.exists():
                continue
            freed += self.size_bytes(digest)
            self._discard(path)
        return freed

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise InvalidError(f"{digest!r} is not a digest; it should be sha256: and 64 hex digits")
        return self._root / digest[7:9] / digest[7:]

    def _keep_file(self, made: Path, digest: str) -> str:
        target = self._path(digest)
        if not self._whole(digest):
            made.chmod(0o444)
            self._rename(made, target)
        return digest

    def _keep_tree(self, source: Path, work: Path) -> str:
        files: dict[str, str] = {}
        folder = work / "tree"
        folder.mkdir()
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            name = path.relative_to(source).as_posix()
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            _, files[name] = _write(copy, _pieces(path))
            copy.chmod(0o444)
        digest = digests.of_tree(files)
        if not self._whole(digest):
            for inside in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
                _sync_folder(inside)
            manifest, _ = _write(work / "manifest", iter((digests.canonical_json(files),)))
            self._rename(manifest, self._path(digest).with_suffix(".tree"))
            self._rename(folder, self._path(digest))
        return digest

    def _whole(self, digest: str) -> bool:
        """Whether the content is there and right; what is damaged is cleared away, to be stored again."""
        try:
            self.fetch(digest)
        except NotFoundError:
            return False
        except CorruptError:
            self._discard(self._path(digest))
            return False
        return True

    def _rename(self, made: Path, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        try:
            made.replace(target)
        except OSError:  # a folder that another process has put here meanwhile
            if not target.is_dir():
                raise
        _sync_folder(target.parent)

    def _discard(self, path: Path) -> None:
        """Take a name away in one step, then delete what it had."""
        grave = Path(mkdtemp(dir=self._tmp))
        path.replace(grave / "gone")
        path.with_suffix(".tree").unlink(missing_ok=True)
        shutil.rmtree(grave)

    def _digest(self, path: Path) -> str:
        stat = path.stat()
        mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        key = str(path)
        with self._lock:
            known = self._seen.get(key)
        if known is not None and known[0] == mark:
            return known[1]
        digest = digests.of_file(path)
        with self._lock:
            self._seen[key] = (mark, digest)
        return digest

    def _check_tree(self, folder: Path, digest: str) -> None:
        found = {p.relative_to(folder).as_posix(): self._digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        actual = digests.of_tree(found)
        if actual != digest:
            raise CorruptError(
                f"{folder} should have the digest {digest} but has {actual}{_culprit(folder, found)}; remove it and make it again, or restore a backup"
            )


def _culprit(folder: Path, found: Mapping[str, str]) -> str:
    """Which file of a damaged folder is not as its manifest says."""
    try:
        wanted: dict[str, str] = json.loads(folder.with_suffix(".tree").read_bytes())
    except (OSError, ValueError):
        return ""
    for name in sorted(set(wanted) | set(found)):
        if wanted.get(name) != found.get(name):
            return f" ({name} should be {wanted.get(name, 'absent')} but is {found.get(name, 'absent')})"
    return ""


def _write(path: Path, pieces: Iterator[bytes]) -> tuple[Path, str]:
    """Write and sync a file, hashing what is written: the source may change meanwhile."""
    hashed = sha256()
    with path.open("wb") as file:
        for piece in pieces:
            hashed.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return path, digests.PREFIX + hashed.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing(digest: str) -> NotFoundError:
    return NotFoundError(f"nothing is stored under {digest}; it was never put here or was removed to free space")
