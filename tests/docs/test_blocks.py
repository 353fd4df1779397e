"""Every block of code in the docs runs, and shows what it says it shows."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.blocks import ROOT, RUN, SHOWN, Block, Reader, blocks, commands, copied, markdown, matches

ON_A_PROJECT = [p for p in markdown() if p.parent.name == "how-to" and p.name != "start-a-project.md"]
ALONE = [p for p in markdown() if p not in ON_A_PROJECT]
NOT_RUN = 15
"""How many blocks say that they are not run. A new one has to change this number, and be seen."""


def runs(page: Path) -> bool:
    return any(b.language in RUN and not b.reason for b in blocks(page))


@pytest.mark.parametrize("page", markdown(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        assert block.language in RUN + SHOWN, f"{page.name}:{block.line} is {block.language!r}; a block that runs is python or console"
        assert block.language in RUN or not block.reason, f"{page.name}:{block.line} would not run anyway"
    fences = [line for line in page.read_text().splitlines() if line.lstrip().startswith(("```", "~~~"))]
    assert len(fences) == 2 * len(blocks(page)), f"{page.name} has a fence that is not read as a block"


def test_blocks_that_are_not_run_are_counted() -> None:
    assert sum(bool(b.reason) for page in markdown() for b in blocks(page)) == NOT_RUN


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that `tidemill init` writes, after a month of history."""
    folder = tmp_path_factory.mktemp("docs") / "kitchen"
    for command in (
        ["init", str(folder)],
        ["replay", "--project", str(folder), "--from", "2024-01-22", "--to", "2024-02-20", "--policy", "on-drift"],
    ):
        subprocess.run([sys.executable, "-m", "tidemill.cli", *command], check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in ON_A_PROJECT if runs(p)], ids=lambda p: p.name)
def test_how_to_runs_on_a_replayed_project(page: Path, project: Path, tmp_path: Path) -> None:
    read(page, copied(project, tmp_path / "kitchen"))


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if p.name == "start-a-project.md" else []) for p in ALONE if runs(p)],
    ids=lambda p: p.name,
)
def test_page_runs_in_an_empty_folder(page: Path, tmp_path: Path) -> None:
    read(page, tmp_path)


def read(page: Path, folder: Path) -> None:
    reader, ran = Reader(folder), 0
    for block in blocks(page):
        if block.title or (block.language in RUN and not block.reason and not borrowed(block)):
            reader.run(block)
            ran += 1
    assert ran or all(borrowed(b) for b in blocks(page) if b.language in RUN and not b.reason)


def borrowed(block: Block) -> bool:
    """A block that equals a file of the examples, which runs in its own tests."""
    return block.body == (ROOT / "examples" / "flights" / "definitions.py").read_text()


def test_output_is_compared() -> None:
    assert matches(["a …", "…", "z"], ["a 1", "b", "c", "z"])
    assert matches([], ["anything"])
    assert not matches(["a"], ["a", "b"])
    assert not matches(["a", "b"], ["a"])
    assert list(commands("$ one\nout\n$ two\n")) == [("one", ["out"]), ("two", [])]


def test_a_block_that_fails_is_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 3"):
        Reader(tmp_path).run(Block("console", "$ exit 3\n", 1))
    with pytest.raises(ZeroDivisionError):
        Reader(tmp_path).run(Block("python", "1 / 0\n", 1))
