"""Code states by Git, or by a manifest of files where there is no Git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from tidemill.cicd.ports import CodeState
from tidemill.core import digests
from tidemill.core.errors import ConflictError, CorruptError, NotFoundError, UnavailableError

_NEVER = frozenset({".tidemill", ".venv", ".git", "__pycache__", "node_modules"})
_DATA = "data"


class GitBuilder:
    """A `Builder` that keeps patches and files by digest in the folder `keep`.

    In a Git repository a state is the commit and a patch against it that holds what was not committed, untracked files included (ignored
    ones, and untracked files below `data/`, are not code). It is made with an index and an object folder of its own, so the
    repository's are never written. Elsewhere it is a manifest of the project's files. Projects in a sub-folder of a repository
    stand for that sub-folder only.
    """

    def __init__(self, keep: Path) -> None:
        self._keep = Path(keep)

    def capture(self, project: Path) -> CodeState:
        self._keep.mkdir(parents=True, exist_ok=True)
        repository = _repository(project)
        if repository is None:
            return CodeState("", self._store(_manifest(project, self._store)), dirty=True)
        with TemporaryDirectory(prefix="code-", dir=self._keep) as folder:
            patch = _patch(repository, Path(folder))
        return CodeState(repository.commit, self._store(patch) if patch else "", dirty=bool(patch))

    def checkout(self, project: Path, state: CodeState, into: Path) -> None:
        if into.exists() and any(into.iterdir()):
            raise ConflictError(f"{into} is not empty; check out into a new folder")
        into.mkdir(parents=True, exist_ok=True)
        if not state.commit:
            self._restore_files(state.patch, into)
            return
        repository = _repository(project)
        if repository is None or not _has(repository, state.commit):
            raise NotFoundError(f"the commit {state.commit} is not in {project}; fetch it from where the run was made, then try again")
        with TemporaryDirectory(prefix="code-", dir=self._keep) as folder:
            _restore(repository, state.commit, self._load(state.patch) if state.patch else b"", Path(folder), into)

    def _store(self, data: bytes) -> str:
        digest = digests.of_bytes(data)
        target = self._keep / digest[7:]
        if not target.exists():
            with NamedTemporaryFile(dir=self._keep, suffix=".tmp", delete=False) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(target)
        return digest

    def _load(self, digest: str) -> bytes:
        try:
            data = (self._keep / digest[7:]).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"the code {digest} is not kept in {self._keep}; restore it from a backup of that folder") from None
        if (found := digests.of_bytes(data)) != digest:
            raise CorruptError(f"{self._keep / digest[7:]} should have the digest {digest} but has {found}; restore it from a backup")
        return data

    def _restore_files(self, manifest: str, into: Path) -> None:
        for name, (digest, mode) in json.loads(self._load(manifest)).items():
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._load(digest))
            target.chmod(mode)


@dataclass(frozen=True, slots=True)
class _Repository:
    """Where a project is in Git: the top folder, the project's path below it ("" or "sub/"), and what HEAD is."""

    top: Path
    prefix: str
    index: Path
    objects: Path
    commit: str


def _git(folder: Path, *args: str, env: dict[str, str] | None = None, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *args],
        env={**clean, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(env or {})},
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def _must(done: subprocess.CompletedProcess[bytes]) -> bytes:
    if done.returncode:
        raise UnavailableError(f"`{' '.join(done.args[:8])}` failed: {done.stderr.decode(errors='replace').strip()[-400:]}")
    return done.stdout


def _repository(project: Path) -> _Repository | None:
    """The repository of a project; None without Git, without a commit, or where Git refuses the folder."""
    wanted = ("rev-parse", "--show-toplevel", "--show-prefix", "--git-path", "index", "--git-path", "objects", "--verify", "HEAD^{commit}")
    try:
        done = _git(project, *wanted)
    except FileNotFoundError:
        return None
    if done.returncode:
        return None
    top, prefix, index, objects, commit = done.stdout.decode("utf-8", "surrogateescape").splitlines()
    return _Repository(Path(top), prefix, (project / index).resolve(), (project / objects).resolve(), commit)


def _scratch(repository: _Repository, folder: Path) -> dict[str, str]:
    """Environment in which Git writes its index and its objects to `folder` only."""
    (folder / "objects").mkdir()
    return {
        "GIT_INDEX_FILE": str(folder / "index"),
        "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(repository.objects),
    }


def _patch(repository: _Repository, folder: Path) -> bytes:
    env = _scratch(repository, folder)
    if repository.index.exists():
        shutil.copy2(repository.index, folder / "index")  # with its time, by which Git knows what may have changed within that second
    here = repository.top / repository.prefix
    outside = [f":(exclude,glob)**/{name}/**" for name in sorted(_NEVER)]
    _must(_git(here, "add", "-u", "--", ".", env=env))
    # `git add` refuses pathspecs that name an ignored folder, even to exclude it
    untracked = _must(_git(here, "ls-files", "-z", "--others", "--exclude-standard", "--", ".", *outside, f":(exclude){_DATA}", env=env))
    _must(_git(here, "update-index", "-z", "--add", "--remove", "--stdin", env=env, stdin=untracked))  # some may be gone by now
    compare = ("diff-index", "--cached", "-p", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv")
    return _must(_git(here, *compare, "--src-prefix=a/", "--dst-prefix=b/", "--relative", repository.commit, "--", ".", env=env))


def _has(repository: _Repository, commit: str) -> bool:
    return _git(repository.top, "cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def _restore(repository: _Repository, commit: str, patch: bytes, folder: Path, into: Path) -> None:
    env = _scratch(repository, folder)
    _must(_git(repository.top, "read-tree", f"{commit}:{repository.prefix.rstrip('/')}", env=env))
    if patch:
        _must(_git(repository.top, "apply", "--cached", "--binary", "--whitespace=nowarn", "-", env=env, stdin=patch))
    _must(_git(repository.top, "checkout-index", "--all", "--force", f"--prefix={into.resolve()}/", env=env))


def _manifest(project: Path, store: Callable[[bytes], str]) -> bytes:
    files: dict[str, tuple[str, int]] = {}
    for path in _code_files(project):
        try:
            with path.open("rb") as file:
                body, mode = file.read(), os.fstat(file.fileno()).st_mode
        except FileNotFoundError:  # deleted since it was listed
            continue
        files[path.relative_to(project).as_posix()] = (store(body), mode & 0o777)
    return digests.canonical_json(files)


def _code_files(project: Path) -> Iterator[Path]:
    """Files of a project without Git: all but data, homes of Tidemill, environments and caches."""
    for folder, folders, files in os.walk(project):
        at_top = Path(folder) == project
        if not at_top and _ignores_itself(Path(folder)):
            folders.clear()
            continue
        folders[:] = sorted(n for n in folders if n not in _NEVER and not n.endswith("_cache") and not (at_top and n == _DATA))
        yield from (path for name in sorted(files) if (path := Path(folder) / name).is_file())


def _ignores_itself(folder: Path) -> bool:
    """Whether a folder's own `.gitignore` says that nothing in it is code: homes of Tidemill, virtual environments and caches do."""
    try:
        return any(line.strip() == "*" for line in (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return False
