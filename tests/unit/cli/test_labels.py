"""tidemill labels: push, states."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tidemill.cli.app import cli
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US
from tidemill.platform.root import Platform
from tidemill.serving.ports import Prediction


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that answered twice: long ago, and just now."""
    folder = tmp_path / "orders"
    assert CliRunner().invoke(cli, ["init", str(folder)]).exit_code == 0
    platform = Platform.open(folder)
    now = platform.clock.now_us()
    platform.log.append(
        [
            Prediction(k, "orders", "orders", 1, "live", at, 0.5, (), ())
            for k, at in (("old", now - 9 * DAY_US), ("new", now), ("told", now - 9 * DAY_US))
        ]
    )
    platform.close()
    return folder


def ask(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["labels", "--project", str(project), *arguments])


def told(project: Path, *arguments: str) -> Any:
    result = ask(project, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_states_are_counted_and_listed(project: Path) -> None:
    assert told(project, "push", "--writer", "desk", "--key", "told", "--value", "1") == {"new": 1, "stated": 1}
    assert told(project, "push", "--writer", "desk", "--key", "told", "--value", "0")["new"] == 1
    counts = told(project, "states")
    assert counts == {"service": "orders", "label": "late", "pending": 1, "early": 0, "mature": 1, "censored": 1, "revised": 1}
    assert [r["prediction"] for r in told(project, "states", "--state", "censored")] == ["old"]
    assert [r["prediction"] for r in told(project, "states", "--state", "revised")] == ["told"]
    assert "pending" in ask(project, "states").output
    assert [(r["value"], r["writer"]) for r in told(project, "show", "told")] == [(1.0, "desk"), (0.0, "desk")]


def test_a_file_of_statements(project: Path, tmp_path: Path) -> None:
    rows = tmp_path / "l.csv"
    rows.write_text("key,value,event,known\nold,1,2024-01-01,2024-01-02T00:00:00Z\nnew,,,\n")
    assert told(project, "push", "--writer", "desk", "--file", str(rows)) == {"new": 2, "stated": 2}
    assert [r["key"] for r in told(project)] == ["old"]
    (tmp_path / "l.json").write_text(json.dumps([{"key": "old", "value": 0}]))
    assert told(project, "push", "--writer", "desk", "--file", str(tmp_path / "l.json"))["new"] == 1
    for text in ("key,value\nold,many\n", "name\nx\n"):
        rows.write_text(text)
        assert isinstance(ask(project, "push", "--writer", "desk", "--file", str(rows)).exception, InvalidError)
    assert ask(project, "push", "--writer", "desk").exit_code == 2
