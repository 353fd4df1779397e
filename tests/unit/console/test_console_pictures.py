"""Words and pictures, value by value."""

import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.console import plots, words
from tidemill.console.draw.composed import composed
from tidemill.console.draw.graph import depths, graph
from tidemill.console.draw.interval import interval
from tidemill.console.draw.spark import histogram, shares, sparkline
from tidemill.console.draw.svg import tag
from tidemill.console.draw.timeline import timeline
from tidemill.console.evidence import blocks, looks, show, summary
from tidemill.console.figures import latency
from tidemill.console.verdict import best, compared, verdict
from tidemill.core.instants import DAY_US, parse_instant

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (math.nan, "–"), (0, "0"), (-3, "−3"), (1234567, "1,234,567"), (0.12345, "0.123"), (-0.5, "−0.500"), (0.00001, "1.00e−05"), (True, "yes"), ("x", "x"), (12.0, "12")],
)  # fmt: skip
def test_numbers(value: object, said: str) -> None:
    assert words.number(value) == said


def test_ages_have_one_unit() -> None:
    assert [words.ago(0, n) for n in (0, 5_000_000, 90_000_000, 3 * 3_600_000_000, 9 * DAY_US, 800 * DAY_US)] == [
        "just now",
        "5 s",
        "1 min",
        "3 h",
        "9 d",
        "2 y",
    ]
    assert words.ago(DAY_US, 0) == "in 1 d"
    assert words.ago(None, 0) == "never"


def test_durations_sizes_and_ids() -> None:
    assert [words.seconds(v) for v in (None, 0.0004, 0.005, 0.25, 7.4, 300)] == ["–", "400 µs", "5.0 ms", "250 ms", "7.4 s", "5.0 min"]
    assert [words.size(v) for v in (None, 12, 4096, 5 * 1024**2, 3 * 1024**4)] == ["–", "12 B", "4.0 KiB", "5.0 MiB", "3072.0 GiB"]
    assert words.short("sha256:" + "ab" * 32) == "ababababab"
    assert words.short("run-0123456789abcdef", 8) == "run-01234567"
    assert words.compact("x" * 300, 20) == "x" * 19 + "…"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.none() | NUMBERS, max_size=40), st.lists(st.tuples(st.text(max_size=8), NUMBERS), max_size=50), NUMBERS)
def test_any_figures_make_well_formed_pictures(values: list[float | None], parts: list[tuple[str, float]], effect: float) -> None:
    clean = [("".join(c for c in name if c.isalnum() and c not in "Nn"), v) for name, v in parts]
    drawn = [
        sparkline(values, label="<&>"), histogram([0, 1, 2], [abs(effect), 0], label='"'), interval(effect, None, None, clean), interval(effect, effect - 1, effect + 1, []),
        shares([("a", "live", 0.9), ("b", "canary", 0.1)], label="x"), timeline([(int(v) % 999, int(v) % 777, "used") for _, v in clean], 500),
    ]  # fmt: skip
    for picture in drawn:
        if picture:
            assert "nan" not in ET.fromstring(picture).attrib["viewBox"]
            assert "NaN" not in picture


def test_a_timeline_shows_where_each_window_begins() -> None:
    rows = [(100, 130, "used"), (400, 420, "used"), (450, 900, "not_yet_known")]
    drawn = ET.fromstring(timeline(rows, 500, [("6 h", 300), ("1 d", 50)]))
    space = "{http://www.w3.org/2000/svg}" if drawn.tag.startswith("{") else ""
    bars = [line for line in drawn.iter(f"{space}line") if line.attrib["class"] == "window"]
    cut = next(line for line in drawn.iter(f"{space}line") if line.attrib["class"] == "cut")
    assert [bar.attrib["x2"] for bar in bars] == [cut.attrib["x1"]] * 2
    events = [float(dot.attrib["cx"]) for dot in drawn.iter(f"{space}circle")]
    assert float(bars[1].attrib["x1"]) < events[0] < float(bars[0].attrib["x1"]) < events[1]


def test_attributes_and_text_are_escaped() -> None:
    assert tag("a", "<b>", href='"><script>') == '<a href="&#34;&gt;&lt;script&gt;">&lt;b&gt;</a>'


def test_graph_places_a_step_behind_all_it_needs() -> None:
    nodes = {"a": [], "b": ["a"], "c": ["a", "b"], "d": []}
    assert depths(nodes) == {"a": 0, "b": 1, "c": 2, "d": 0}
    drawn = graph(nodes, {"a": {"status": "cached", "wall_ms": 0.2}, "b": {"status": "failed", "wall_ms": 1500.0}})
    assert 'aria-label="a: cached"' in drawn
    assert "failed · 1.5 s" in drawn
    assert 'aria-label="c: waiting"' in drawn
    assert graph({}, {}) == ""


def test_evidence_of_a_gate_and_of_a_rollout() -> None:
    gate = {
        "effect": -0.02,
        "low": -0.03,
        "high": -0.01,
        "n": 10,
        "block": "1d",
        "differences": [[15706, 5, -0.01], [15707, 5, None]],
        "metric": "log_loss",
    }
    assert blocks(gate) == [("1 Jan 2013", -0.01)]
    assert summary({"evidence": gate}) == "log loss −0.0200, −0.0300 to −0.0100, n 10"
    assert "Effect -0.0200 log loss, interval -0.0300 to -0.0100" in show({"evidence": gate}).picture
    rollout = {"reason": "worse", "mean": 0.1, "effect": "candidate - live", "series": [[1, 2, 0.1, None, None], [2, 3, None, 0, 0], [3]]}
    assert summary({"evidence": rollout}) == "worse"
    assert looks(rollout) == [{"at_us": 1, "n": 2, "effect": 0.1, "low": None, "high": None}]
    assert "+0.1000" in show({"evidence": rollout}).picture
    assert show({"evidence": None}).facts == ()
    assert summary({"evidence": {"anomalies": [{"column": "tailnum", "observed": "33% null"}]}}) == "tailnum: 33% null"


def test_latency_is_by_nearest_rank() -> None:
    found = latency([1000 * i for i in range(1, 101)])
    assert found is not None
    assert (found["p50"], found["p95"], found["p99"], found["n"]) == (50.0, 95.0, 99.0, 100)
    assert sum(found["counts"]) == 100
    assert latency([0, 0]) is None
    assert latency([7]) is not None


def _policy(name: str, loss: float | None, trainings: int, weeks: list[float]) -> dict[str, object]:
    return {"name": name, "log_loss": loss, "auc": 0.7, "trainings": trainings, "weeks": [{"week_us": i * 7 * DAY_US, "log_loss": w, "n": 9} for i, w in enumerate(weeks)], "events": [{"at_us": 8 * DAY_US, "kind": "promote", "text": "v2"}]}  # fmt: skip


def test_policies_are_compared_with_never_and_with_the_next_best() -> None:
    found = compared(
        [_policy("never", 0.5, 1, [0.5, 0.6]), _policy("monthly", 0.46, 10, [0.5, 0.4]), _policy("on-drift", 0.45, 4, [0.4, 0.5])]
    )
    assert [p["lead"] for p in found] == [0, 1, 1]
    assert found[2]["gain"] == pytest.approx(0.05)
    assert best(found) == "on-drift"
    assert (
        verdict(found, "on-drift")
        == "Retraining on drift served a log loss 0.050 lower than never retraining, with 6 fewer trainings than monthly."
    )
    assert verdict(found[:1], "never") == ""
    assert best([]) == ""


def test_the_weeks_are_drawn_with_the_primary_policy_last_and_marked() -> None:
    figure = plots.weeks(
        {"primary": "on-drift", "policies": [_policy("on-drift", 0.45, 4, [0.4, 0.5]), _policy("never", 0.5, 1, [0.5, 0.6])]}
    )
    assert [t["name"] for t in figure["data"]] == ["never", "on-drift", "promotion"]
    assert figure["data"][1]["fill"] == "tonexty"
    assert figure["data"][2]["y"] == [0.5]


def test_quality_marks_deployments_and_carries_coverage() -> None:
    at = int(parse_instant("2013-03-02"))
    rows = [{"until_us": at, "value": 0.5, "low": 0.4, "high": 0.6, "version": 2, "covered": 9, "n": 10}]
    figure = plots.quality("log_loss", rows, [(at, "v2")])
    assert figure["data"][-1]["text"] == ["9 of 10 labelled"]
    assert figure["layout"]["annotations"][0]["text"] == "v2"
    assert plots.coverage(rows)["data"][0]["y"] == [0.9]


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (None, "–"), ({"kind": "new_data"}, "new data"), ({"champion": 3, "version": 4}, "against v3"), ({"champion": None}, "there was no champion"),
        ({"version": 4, "replaces": 3}, "to replace v3"), ({"decision": "d", "replaces": None}, "passed the gate"), ({"x": 1}, '{"x": 1}'),
    ],
)  # fmt: skip
def test_causes_have_words(cause: dict[str, object] | None, said: str) -> None:
    assert words.because(cause) == said


def _node(name: str, kind: str, depth: int, when: str = "", **more: object) -> dict[str, object]:
    empty: dict[str, object] = {"model": "", "wanted": "", "version": None, "how": "", "problem": "", "beside": []}
    return {"node": name, "kind": kind, "depth": depth, "when": when, **empty, **more}


def test_a_composed_graph_has_a_frame_for_each_composition_and_says_who_answers() -> None:
    rows = [
        _node("both", "ensemble", 0, how="mean"),
        _node("sequence", "sequence", 1, "0.4"),
        _node("clean", "function", 2, version="0123456789ab"),
        _node("model", "model", 2, model="a<b", wanted="live", version="8", beside=[{"version": "9", "role": "canary"}]),
        _node("other", "model", 1, "0.6", model="other", wanted="champion", problem="'other' has no champion"),
    ]
    drawn = str(composed(rows))
    assert "Inference graph of 3 nodes" in drawn
    assert (drawn.count('class="frame"'), drawn.count('class="edge"')) == (1, 1)
    assert "a&lt;b v8, v9 canary" in drawn
    assert 'href="/models/a&lt;b/8"' in drawn
    assert drawn.index("0.4") < drawn.index("0.6")
    assert 'class="failed"' in drawn
    width = float(drawn.split('width="')[1].split('"')[0])
    assert all(float(x) + float(w) < width for x, w in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn))
    assert composed([]) == ""
