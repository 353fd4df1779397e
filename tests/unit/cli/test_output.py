"""What is printed: rows, facts, sparklines, plots, the replay's screen."""

import json
import math
from typing import Any

import pytest

from tidemill.cli.monitoring import one_course
from tidemill.cli.output import cell, plain, progress, show_rows, sparkline
from tidemill.cli.screen import plot, show_replay, show_why

WEEK_US = 7 * 86_400_000_000


def test_rows_as_json_are_whole_and_have_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"a": 1, "hidden": math.nan, "at_us": 5}], ["a"], as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "hidden": None, "at_us": 5}]


def test_rows_as_a_table_show_instants_and_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"a": None, "at_us": 0}], ["a", "at_us"], as_json=False)
    out = capsys.readouterr().out
    assert "1970-01-01T00:00:00Z" in out
    assert "—" in out


def test_an_empty_listing_says_what_to_do_and_is_a_list_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([], ["a"], as_json=False, empty="make one")
    show_rows([], ["a"], as_json=True, empty="make one")
    assert capsys.readouterr().out == "make one\n[]\n"


@pytest.mark.parametrize(
    ("value", "text"), [(True, "yes"), (0.123456, "0.1235"), (1234567.0, "1,234,567"), ({"b": 1}, '{"b": 1}'), ("x", "x")]
)
def test_cells(value: Any, text: str) -> None:
    assert cell("c", value) == text


def test_sparkline_spans_its_values_and_leaves_gaps() -> None:
    assert sparkline([0, None, 7]) == "▁ █"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([None]) == ""


def test_plain_turns_everything_into_json() -> None:
    assert plain({"a": (1, math.inf), "b": {2}}) == {"a": [1, None], "b": [2]}


def test_no_progress_bar_for_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("working") as bar:
        for i in range(100):
            bar(i, 100, "x")
    assert capsys.readouterr().err == ""


def policy(name: str, losses: list[float], **more: Any) -> dict[str, Any]:
    weeks = [{"week_us": i * WEEK_US, "log_loss": loss, "n": 10} for i, loss in enumerate(losses)]
    figures = {"log_loss": sum(losses) / len(losses) if losses else None, "auc": 0.7 if losses else None, "n": 10 * len(losses)}
    return {"name": name, "weeks": weeks, **figures, "trainings": 1, "minutes": 0.5, "promotions": 1, "rollbacks": 0, "events": [], **more}


def report(*policies: dict[str, Any]) -> dict[str, Any]:
    return {"service": "s", "from_us": 0, "until_us": 10 * WEEK_US, "primary": policies[0]["name"], "policies": list(policies)}


def test_the_replay_screen_ranks_policies_and_compares_with_never(capsys: pytest.CaptureFixture[str]) -> None:
    show_replay(report(policy("never", [0.5] * 10), policy("on-drift", [0.4] * 10), policy("idle", [])))
    lines = capsys.readouterr().out.splitlines()
    ranked = [line for line in lines if line.startswith("●")]
    assert [line.split()[1] for line in ranked] == ["on-drift", "never", "idle"]
    assert "-0.1000" in ranked[0]


def dots(line: str) -> int:
    return sum((ord(c) - 0x2800).bit_count() for c in line if 0x2800 <= ord(c) < 0x2900)


def test_a_falling_curve_starts_at_the_top_left_and_ends_at_the_bottom_right() -> None:
    weeks = [{"week_us": i * WEEK_US, "log_loss": 1 - i / 10, "n": 1} for i in range(10)]
    lines = [line.plain for line in plot({"p": weeks}, {"p": "red"}, 0, 10 * WEEK_US)]
    curve = [line for line in lines if "│" in line]
    first, last = (next(i for i, c in enumerate(line.split("│")[1]) if c != "⠀") for line in (curve[0], curve[-1]))
    assert first == 0
    assert last > 15
    assert all(dots(line) for line in curve)
    assert "1.000" in curve[0]
    assert "0.100" in curve[-1]


def test_a_flat_curve_and_none_are_drawn_too() -> None:
    assert any(dots(line.plain) for line in plot({"p": policy("p", [0.5] * 3)["weeks"]}, {"p": "red"}, 0, 3 * WEEK_US))
    assert "no labelled predictions" in plot({}, {}, 0, 1)[0].plain


def test_why_is_a_tree_from_the_prediction_to_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"use": "not_yet_known", "event_us": 0, "known_us": 1, "values": {}}
    show_why(
        {
            "prediction": {"id": "p1", "score": 0.25, "service": "s", "role": "live", "at_us": 0},
            "label": [{"value": 1.0, "known_us": 0, "writer": "table"}],
            "model": {"uri": "models:/s/2", "digest": "sha256:" + "0" * 64, "status": "champion"},
            "decision": {"kind": "rollout", "outcome": "promote", "at_us": 0, "id": "decision-1"},
            "run": {"id": "run-1", "started_us": 0, "cause": {"kind": "drift"}},
            "snapshots": {"orders": 17},
            "features": [
                {"name": "v__x", "value": 3.0, "view": "v", "table": "t", "rows": [row]},
                {"name": "hour", "value": 7, "from": "on demand", "rows": []},
            ],
        }
    )
    out = capsys.readouterr().out
    for text in ("p1", "models:/s/2", "decision-1", "cause: drift", "snapshot 17", "v__x = 3", "not yet known", "hour = 7", "on demand"):
        assert text in out


def test_a_course_has_one_window_for_each_end() -> None:
    windows = [{"until_us": u, "version": v, "value": v} for u, v in [(1, 1), (2, 1), (2, 2), (3, 2), (3, 0), (3, 3)]]
    assert [w["version"] for w in one_course(windows)] == [1, 2, 0]
