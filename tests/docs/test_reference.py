"""What is generated is up to date, and what can be said is documented."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "config.md", "errors.md", "ports.md", "http-api.md"])
def test_reference_is_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / "reference" / name).read_text() == hook("reference").pages()[name], "run `make reference`"


def test_readme_shows_the_flights_and_the_benchmarks_as_they_are() -> None:
    text = (ROOT / "README.md").read_text()
    assert hook("readme").refreshed(text) == text, "run `make reference`"
    assert (ROOT / "examples" / "flights" / "definitions.py").read_text() in text


def test_readme_names_the_two_commands_and_they_exist() -> None:
    text, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"$ make {target}" in text
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def words(command: Any) -> list[str]:
    import click

    if not isinstance(command, click.Group):
        return []
    context = click.Context(command)
    return [w for name in command.list_commands(context) for w in (name, *words(command.get_command(context, name)))]


def test_every_verb_is_documented() -> None:
    from tidemill.cli.app import COMMANDS

    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    for name in COMMANDS:
        assert f"\n## tidemill {name}\n" in text


def test_docs_only_use_commands_and_options_that_exist() -> None:
    import click

    from tidemill.cli.app import cli

    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    used = {line for page in pages for line in re.findall(r"^\$ (tidemill .*)$", page.read_text(), re.MULTILINE)}
    assert len(used) > 15
    for line in used:
        command: click.Command | None = cli
        options = set[str]()
        for word in line.partition("$(")[0].split()[1:]:
            if isinstance(command, click.Group) and (below := command.get_command(click.Context(command), word)):
                command = below
            options |= {o for p in command.params for o in p.opts} if command else set()
            if word.startswith("--"):
                assert word.partition("=")[0] in options, line
        assert command is not cli, line
