"""The frame of the command line: lazy commands, exit codes, errors in one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tidemill.cli import app, exits
from tidemill.cli.app import COMMANDS, run
from tidemill.core import errors


def test_the_help_lists_every_command_without_importing_one(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from tidemill.cli.app import run; run(['--help']); print([m for m in sys.modules if m.startswith('tidemill.cli.')])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in out for name in COMMANDS)
    assert set(eval(out.splitlines()[-1])) == {"tidemill.cli.app", "tidemill.cli.exits"}


@pytest.mark.parametrize("heavy", ["numpy", "pyarrow", "sqlalchemy", "duckdb", "hydra", "lightgbm", "fastapi", "rich", "asyncio"])
def test_neither_the_package_nor_the_help_loads_heavy_modules(heavy: str) -> None:
    code = f"import sys, tidemill; from tidemill.cli.app import run; run(['--help']); sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: tidemill {command}" in out
    assert len(out.splitlines()) > 4


def _leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    out: list[tuple[tuple[str, ...], click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        out.append(((*path, name), command))
        if isinstance(command, click.Group):
            out += _leaves(command, (*path, name))
    return out


def test_every_option_and_command_has_a_help() -> None:
    for path, command in _leaves(app.cli):
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)


LISTINGS = ("ingest", "validate", "features", "tune", "runs", "models", "rollout", "labels", "monitor", "decisions", "ledger", "doctor")


@pytest.mark.parametrize("command", LISTINGS)
def test_every_listing_has_json(command: str) -> None:
    found = app.cli.get_command(click.Context(app.cli), command)
    assert found is not None
    assert any("--json" in p.opts for p in found.params)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("init", "completion", "demo")])
def test_every_command_on_a_project_takes_project_and_override(command: str) -> None:
    found = app.cli.get_command(click.Context(app.cli), command)
    if command == "feast":  # import makes a project; export is on one
        assert isinstance(found, click.Group)
        found = found.commands["export"]
    assert found is not None
    options = {o for p in found.params for o in p.opts}
    assert {"--project", "-o", "--override"} <= options


def test_a_mistyped_command_offers_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trian"]) == 2
    assert "did you mean train" in capsys.readouterr().err


def test_a_mistyped_option_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "--jsn"]) == 2
    assert "--json" in capsys.readouterr().err


def test_no_project_is_not_found_and_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "--project", str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "tidemill init" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidError("x"), 2),
        (errors.ConfigError("x"), 2),
        (errors.NotFoundError("x"), 3),
        (errors.RefusedError("x"), 4),
        (errors.CorruptError("x"), 4),
        (errors.UnavailableError("x"), 5),
        (errors.ConflictError("x"), 1),
        (errors.TidemillError("x"), 1),
        (KeyError("x"), 1),
    ],
)
def test_exit_codes_follow_the_error(error: Exception, code: int) -> None:
    assert exits.code_of(error) == code
    assert code in exits.MEANING


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def install(error: BaseException) -> None:
        @click.command("runs")
        def broken() -> None:
            raise error

        monkeypatch.setattr(app.LazyGroup, "get_command", lambda _self, _context, _name: broken)

    return install


def test_our_errors_are_one_line_without_traceback(failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    failing(errors.RefusedError("no\n  way"))
    assert run(["runs"]) == 4
    assert capsys.readouterr().err == "error: no way\n"


def test_other_errors_are_called_bugs(failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    failing(ZeroDivisionError("oh"))
    assert run(["runs"]) == 1
    assert "bug: ZeroDivisionError: oh" in capsys.readouterr().err


def test_debug_shows_where(failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_DEBUG", "1")
    failing(errors.RefusedError("no"))
    with pytest.raises(errors.RefusedError):
        run(["runs"])


def test_interruption_is_130(failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    assert run(["runs"]) == 130


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_TIDEMILL_COMPLETE" in capsys.readouterr().out


def test_completion_completes() -> None:
    environment = {"_TIDEMILL_COMPLETE": "zsh_complete", "COMP_WORDS": "tidemill de", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['tidemill']; from tidemill.cli import main; main()"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False).stdout
    assert {"demo", "deploy", "decisions"} <= set(out.split())


def test_init_writes_a_project_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "kitchen"]) == 0
    assert "tidemill replay" in capsys.readouterr().out
    assert run(["features", "--project", "kitchen", "--json"]) == 0
    views = json.loads(capsys.readouterr().out)
    assert [v["name"] for v in views] == ["recent"]


def test_init_never_writes_into_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kitchen").mkdir()
    (tmp_path / "kitchen" / "mine.txt").write_text("mine")
    assert run(["init", str(tmp_path / "kitchen")]) == 1
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "kitchen").iterdir()] == ["mine.txt"]


def test_init_refuses_names_that_no_service_can_have(tmp_path: Path) -> None:
    assert run(["init", str(tmp_path / "My Project")]) == 2
