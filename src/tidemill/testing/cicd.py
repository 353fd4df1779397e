"""What every `Builder` must keep."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tidemill.cicd.ports import Builder, CodeState
from tidemill.core import digests
from tidemill.core.clock import WallClock
from tidemill.core.errors import ConflictError, CorruptError, NotFoundError
from tidemill.testing.contract import Contract


def git(folder: Path, *args: str) -> str:
    """Run Git in a folder, as nobody in particular."""
    who = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.com", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", str(folder), *who, *args], check=True, capture_output=True, text=True).stdout


def write(folder: Path, **files: str) -> None:
    """Write files; `__` in a name stands for a slash, `_dot_` for a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    """The files of a project that are code, by digest."""
    return {name: digest for name, digest in digests.tree(folder).items() if not name.startswith((".git/", ".tidemill/", "data/"))}


def next_second() -> None:
    """Wait until the wall clock's next whole second."""
    time.sleep(1 - WallClock().now_us() % 1_000_000 / 1e6)


class BuilderContract(Contract):
    """Supply `builder`, and `keep`: the folder where it keeps what it captures."""

    @pytest.fixture
    def keep(self, tmp_path: Path) -> Path:
        """Where states are kept."""
        return tmp_path / "keep"

    @pytest.fixture
    def builder(self, keep: Path) -> Builder:
        """A builder that keeps states in `keep`."""
        raise NotFoundError(f"supply a builder fixture that keeps states in {keep}")

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        """A project in Git, all committed but its home and its data."""
        project = tmp_path / "project"
        write(project, definitions_dot_py="a = 1\n", conf__config_dot_yaml="x: 1\n", _dot_gitignore="*.log\n")
        write(project, _dot_tidemill__ledger_dot_db="big", data__rows_dot_csv="1,2\n")
        git(project, "init", "-q")
        git(project, "add", "definitions.py", "conf", ".gitignore")
        git(project, "commit", "-qm", "first")
        return project

    def test_whole_when_clean(self, builder: Builder, project: Path, tmp_path: Path) -> None:
        state = builder.capture(project)
        assert (state.patch, state.dirty) == ("", False)
        assert state.commit == git(project, "rev-parse", "HEAD").strip()
        builder.checkout(project, state, tmp_path / "out")
        assert content(tmp_path / "out") == content(project)

    def test_whole_when_dirty(self, builder: Builder, project: Path, tmp_path: Path) -> None:
        write(project, definitions_dot_py="a = 2\r\n", new__deep_dot_py="b = 1", noise_dot_log="no")
        (project / "new" / "bytes ü.bin").write_bytes(bytes(range(256)) * 20)
        (project / "conf" / "config.yaml").unlink()
        (project / "run.sh").write_text("#!/bin/sh\n")
        (project / "run.sh").chmod(0o755)
        git(project, "add", "new/deep.py")
        write(project, new__deep_dot_py="b = 2")
        state = builder.capture(project)
        assert state.dirty
        assert state.patch.startswith("sha256:")
        builder.checkout(project, state, tmp_path / "out")
        wanted = content(project)
        del wanted["noise.log"]
        assert content(tmp_path / "out") == wanted
        assert os.access(tmp_path / "out" / "run.sh", os.X_OK)

    def test_whole_long_after(self, builder: Builder, project: Path, tmp_path: Path) -> None:
        write(project, definitions_dot_py="a = 2\n")
        wanted, state = content(project), builder.capture(project)
        git(project, "commit", "-qam", "second")
        write(project, definitions_dot_py="a = 3\n")
        builder.checkout(project, state, tmp_path / "out")
        assert content(tmp_path / "out") == wanted

    def test_whole_in_a_folder_of_a_larger_repository(self, builder: Builder, project: Path, tmp_path: Path) -> None:
        write(project, sub__definitions_dot_py="s = 1\n", elsewhere_dot_txt="x")
        git(project, "add", "sub")
        git(project, "commit", "-qm", "sub")
        write(project, sub__definitions_dot_py="s = 2\n", sub__more_dot_py="m", elsewhere_dot_txt="y")
        state = builder.capture(project / "sub")
        builder.checkout(project / "sub", state, tmp_path / "out")
        assert content(tmp_path / "out") == content(project / "sub")
        write(project, elsewhere_dot_txt="z")
        assert builder.capture(project / "sub") == state

    def test_whole_when_changed_within_the_second_of_the_commit(self, builder: Builder, project: Path, tmp_path: Path) -> None:
        next_second()  # Git tells such a change, of the same size, by the index's own time only
        write(project, definitions_dot_py="a = 8\n")
        git(project, "commit", "-qam", "eight")
        write(project, definitions_dot_py="a = 9\n")
        next_second()
        state = builder.capture(project)
        assert state.dirty
        builder.checkout(project, state, tmp_path / "out")
        assert content(tmp_path / "out") == content(project)

    def test_whole_outside_of_git(self, builder: Builder, tmp_path: Path) -> None:
        plain = tmp_path / "plain"
        write(plain, definitions_dot_py="a = 1\n", conf__c_dot_yaml="x", schemas__t_dot_yaml="y", _dot_tidemill__l="n", data__d_dot_csv="n")
        state = builder.capture(plain)
        assert (state.commit, state.dirty) == ("", True)
        builder.checkout(plain, state, tmp_path / "out")
        assert content(tmp_path / "out") == content(plain)
        assert not (tmp_path / "out" / "data").exists()

    def test_whole_when_data_is_ignored(self, builder: Builder, project: Path, tmp_path: Path) -> None:
        write(project, _dot_gitignore="*.log\n/data/\n/.tidemill/\n/.venv/\n", definitions_dot_py="a = 2\n", _dot_venv__pip="p")
        builder.checkout(project, builder.capture(project), tmp_path / "out")
        wanted = content(project)
        del wanted[".venv/pip"]
        assert content(tmp_path / "out") == wanted

    @pytest.mark.parametrize("plain", [True, False])
    def test_folders_that_ignore_themselves_are_not_code(self, builder: Builder, project: Path, tmp_path: Path, *, plain: bool) -> None:
        folder = tmp_path / "plain" if plain else project
        write(
            folder,
            definitions_dot_py="a = 2\n",
            other_home___dot_gitignore="# by a program\n*\n",
            other_home__lake__t="n",
            part___dot_gitignore="*.log\n",
            part__a="y",
        )
        builder.checkout(folder, builder.capture(folder), tmp_path / "out")
        assert not (tmp_path / "out" / "other_home").exists()
        assert (tmp_path / "out" / "part" / "a").exists()

    def test_files_that_come_and_go_meanwhile(self, builder: Builder, tmp_path: Path) -> None:
        plain = tmp_path / "plain"
        write(plain, definitions_dot_py="a = 1\n")
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                for number in range(50):
                    (plain / f"temporary-{number}").write_text("x")
                for number in range(50):
                    (plain / f"temporary-{number}").unlink()

        churning = threading.Thread(target=churn)
        churning.start()
        try:
            for turn in range(30):
                builder.checkout(plain, builder.capture(plain), tmp_path / str(turn))
                assert (tmp_path / str(turn) / "definitions.py").exists()
        finally:
            stop.set()
            churning.join()

    def test_equal_code_is_one_state(self, builder: Builder, project: Path) -> None:
        write(project, definitions_dot_py="a = 2\n", fresh_dot_py="f")
        state = builder.capture(project)
        assert builder.capture(project) == state
        write(project, fresh_dot_py="g")
        assert builder.capture(project) != state

    def test_harmless(self, builder: Builder, project: Path) -> None:
        write(project, definitions_dot_py="a = 2\n", fresh_dot_py="f", staged_dot_py="s")
        git(project, "add", "staged.py")
        before = _repository(project)
        builder.capture(project)
        assert _repository(project) == before

    def test_not_found(self, builder: Builder, project: Path, keep: Path, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="deadbeef"):
            builder.checkout(project, CodeState("deadbeef" * 5, "", False), tmp_path / "out")
        write(project, definitions_dot_py="a = 2\n")
        state = builder.capture(project)
        kept = next(path for path in keep.rglob("*") if path.name == state.patch[7:])
        kept.write_bytes(b"other")
        with pytest.raises(CorruptError, match=state.patch):
            builder.checkout(project, state, tmp_path / "out2")
        kept.unlink()
        with pytest.raises(NotFoundError, match=state.patch):
            builder.checkout(project, state, tmp_path / "out3")

    def test_nothing_is_overwritten(self, builder: Builder, project: Path, tmp_path: Path) -> None:
        write(tmp_path / "out", mine_dot_txt="x")
        with pytest.raises(ConflictError):
            builder.checkout(project, builder.capture(project), tmp_path / "out")


def _repository(project: Path) -> tuple[dict[str, str], str]:
    """All files, Git's own included, and the index's digest and times."""
    stat = (project / ".git" / "index").stat()
    return digests.tree(project), f"{stat.st_mtime_ns} {stat.st_ino}"
