"""Reading fenced code blocks out of Markdown and running them as a reader would."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.platform.doctor import examine

ROOT = Path(__file__).resolve().parents[2]
RUN = ("python", "console")
SHOWN = ("text", "yaml", "toml", "json")
_FENCE = re.compile(r"^(?P<skip><!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block. `reason` says why it is not run; "" when it is."""

    language: str
    body: str
    line: int
    reason: str = ""
    title: str = ""


def markdown() -> list[Path]:
    """Every page that people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The page's blocks in order."""
    text = page.read_text(encoding="utf-8")
    out = []
    for m in _FENCE.finditer(text):
        info, title = m["info"].strip(), _TITLE.search(m["info"])
        language = info.split()[0] if info else ""
        out.append(Block(language, m["body"], text.count("\n", 0, m.start()) + 1, m["reason"] or "", title[1] if title else ""))
    return out


@dataclass
class Reader:
    """Runs one page's blocks in order, in a folder of its own, as one reader with one shell and one Python."""

    folder: Path
    names: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "160",
            "NO_COLOR": "1",
        }

    def run(self, block: Block) -> None:
        """Run a block; what it shows must be what comes. A shown file with a title is written."""
        if block.title:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body)
        elif block.language == "python":
            before = Path.cwd()
            os.chdir(self.folder)
            try:
                exec(compile("\n" * block.line + block.body, "page", "exec"), self.names)
            finally:
                os.chdir(before)
        else:
            for command, expected in commands(block.body):
                self._command(command, expected)

    def _command(self, command: str, expected: list[str]) -> None:
        done = subprocess.run(
            ["bash", "-c", f"set -e; {command}\npwd > .cwd-of-page"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"$ {command}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
        for folder in (self.folder, *(p for p in self.folder.iterdir() if p.is_dir())):
            if (folder / ".cwd-of-page").exists():
                (folder / ".cwd-of-page").unlink()
                self.folder = folder
        assert matches(expected, done.stdout.splitlines()), f"$ {command}\nexpected:\n" + "\n".join(expected) + f"\ngot:\n{done.stdout}"


def commands(body: str) -> Iterator[tuple[str, list[str]]]:
    """Each `$ command` with the lines shown below it."""
    command, expected = "", list[str]()
    for line in body.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, expected
            command, expected = line[2:], []
        else:
            expected.append(line)
    if command:
        yield command, expected


def matches(expected: list[str], got: list[str]) -> bool:
    """Whether the output is as shown: `…` on a line of its own stands for any lines, within a line for any text; spaces don't count.

    Nothing shown promises nothing.
    """
    if not any(line.strip() for line in expected):
        return True
    pattern = ""
    for line in (" ".join(text.split()) for text in expected if text.strip()):
        pattern += r"(?:[^\n]*\n)*" if line == "…" else r".*".join(re.escape(part) for part in line.split("…")) + r"\n"
    shown = "".join(" ".join(text.split()) + "\n" for text in got if text.strip())
    return re.fullmatch(pattern, shown) is not None


def copied(project: Path, into: Path) -> Path:
    """A copy of a prepared project, its tables told where they are, so that pages don't meet each other's changes."""
    shutil.copytree(project, into)
    examine(into, fix=True)
    return into
