"""tidemill features materialize, publish, versions and deprecate on a small project."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tidemill.cli.app import cli
from tidemill.platform.root import Platform

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p") / "orders"
    for arguments in (["init", str(folder)], ["ingest", "--project", str(folder)]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
    return folder


def ask(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["features", "--project", str(project), *arguments])


def told(project: Path, *arguments: str) -> Any:
    return json.loads(ask(project, *arguments, "--json").output)


def test_from_never_materialized_to_a_second_version(project: Path) -> None:
    assert [(r["view"], r["because"]) for r in told(project, "materialize", "--explain")] == [("recent", "never materialized")]
    assert [r["now"] for r in told(project, "materialize")] == ["published"]
    assert "up to date" in ask(project, "materialize").output
    assert "nothing is stale" in ask(project, "materialize", "--explain").output

    definitions = project / "definitions.py"
    definitions.write_text(definitions.read_text().replace('tm.mean("minutes", over="3h"', 'tm.mean("minutes", over="6h"'))
    assert [r["because"] for r in told(project, "materialize", "--explain")] == ["changed definition"]
    assert [r["now"] for r in told(project, "materialize", "--no-publish")] == ["complete"]
    assert {r["version"]: r["state"] for r in told(project, "versions", "recent")} == {"recent@1": "current", "recent@2": "complete"}
    assert "recent@2 is published" in ask(project, "publish", "recent").output
    assert {r["version"]: r["state"] for r in told(project, "versions")} == {"recent@1": "published", "recent@2": "current"}
    assert ask(project, "materialize").exit_code == 0
    assert {r["version"]: r["state"] for r in told(project, "versions")} == {"recent@1": "dropped", "recent@2": "current"}, (
        "nobody reads it"
    )

    readers = told(project, "deprecate", "recent@2", "--reason", "too wide")
    assert [(r["service"], r["role"]) for r in readers] == [("orders", "defined")]
    assert [r["deprecated"] for r in told(project, "versions")] == [None, "too wide"]

    (project / ".tidemill" / "online.db").unlink()
    for more in ("-wal", "-shm"):
        (project / ".tidemill" / f"online.db{more}").unlink(missing_ok=True)
    assert [r["because"] for r in told(project, "materialize", "--explain")] == ["store flushed"]
    assert ask(project, "materialize").exit_code == 0


def test_the_listing_shows_how_far_the_state_lags(project: Path) -> None:
    ask(project, "materialize")
    views = json.loads(CliRunner().invoke(cli, ["features", "--project", str(project), "--json"]).output)
    assert views[0]["lag_us"] is not None
    assert views[0]["late"] is False, "nothing was promised"


def test_a_broken_promise_is_an_event_once(project: Path) -> None:
    definitions = project / "definitions.py"
    before = definitions.read_text()
    definitions.write_text(
        before.replace("recent = tm.FeatureView(", 'recent = tm.FeatureView(freshness="15m", *(').replace(
            'tm.count(over="3h", hop="5m")])', 'tm.count(over="3h", hop="5m")]))'
        )
    )
    try:
        for _ in range(2):
            assert ask(project, "materialize").exit_code == 0
    finally:
        definitions.write_text(before)
    platform = Platform.open(project)
    events = [e for e in platform.ledger.events_after(0) if e.kind == "features.late"]
    platform.close()
    assert [(e.subject, e.body["broken"]) for e in events] == [("recent", True)]


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["materialize", "recnt"], "no feature view named 'recnt'", 3),
        (["publish", "recnt"], "no feature view 'recnt'", 3),
        (["deprecate", "recnt"], "no feature view named 'recnt'", 3),
        (["deprecate", "recent@9"], "recent@9", 3),
        (["deprecate", "recent@x"], "names no version", 2),
    ],
)
def test_what_does_not_exist_is_said(project: Path, arguments: list[str], says: str, code: int) -> None:
    from tidemill.cli.exits import code_of

    ask(project, "materialize")
    result = ask(project, *arguments)
    assert result.exception is not None
    assert says in str(result.exception)
    assert code_of(result.exception) == code


def test_search_finds_by_word_and_column(project: Path) -> None:
    assert {"feature view", "feature"} <= {r["kind"] for r in told(project, "search", "minutes")}
    assert ("feature view", "recent") in {(r["kind"], r["name"]) for r in told(project, "search", "kitchen", "minut")}
    assert [r["name"] for r in told(project, "search", "--kind", "table", "deliv")] == ["deliveries"]
    assert "nothing in definitions.py" in ask(project, "search", "zebra").output


def test_personal_values_are_shown_on_request_only(project: Path) -> None:
    definitions = project / "definitions.py"
    before = definitions.read_text()
    definitions.write_text(
        before.replace('known_time="recorded_at", key="order")', 'known_time="recorded_at", key="order", pii="minutes")')
    )
    platform = Platform.open(project)
    rows = platform.tables.scan("deliveries")
    import pyarrow.parquet as pq

    row = pq.read_table(rows.paths[0]).slice(0, 1).to_pylist()[0]
    at = (row["recorded_at"]).isoformat()
    try:
        arguments = ["explain", "recent", "--key", json.dumps({"kitchen": row["kitchen"]}), "--at", at]
        assert {r["minutes"] for r in told(project, *arguments)} == {"•••"}
        assert row["minutes"] in {r["minutes"] for r in told(project, *arguments, "--reveal")}
        assert [e.subject for e in platform.ledger.events_after(0) if e.kind == "pii.revealed"] == ["recent"]
    finally:
        definitions.write_text(before)
        platform.close()
