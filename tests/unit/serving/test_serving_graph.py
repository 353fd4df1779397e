"""Graphs: what each composition says, by hand; which nodes a route names; what happens when a node fails."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.graph_kit import GraphStack, linear
from tests.support.serving_kit import LATE

import tidemill as tm
from tidemill.core.errors import ConflictError, InvalidError, UnavailableError
from tidemill.core.graphs import models_of
from tidemill.serving.graph.bind import GraphModel
from tidemill.serving.graph.frame import Base
from tidemill.serving.graph.nodes import Walk
from tidemill.serving.graph.patience import Patience
from tidemill.serving.graph.threads import Threads, Together
from tidemill.serving.node_errors import NodeError, NodeTimeoutError
from tidemill.serving.sticky import share_of

NEAR, FAR = tm.model("near"), tm.model("far")


def strong(sky__wind: Any) -> Any:
    return sky__wind > 10


def fails_on_storm(sky__wind: Any) -> Any:
    if (sky__wind > 30).any():
        raise RuntimeError("secret")
    return sky__wind / 100


def route(answer: Any) -> list[tuple[str, str, str]]:
    return [(v.node, v.model or v.version[:4], v.state) for v in answer.route[1:]]


def made(home: Path, graph: Any, **changes: Any) -> GraphStack:
    stack = GraphStack(home, graph, **changes)
    stack.model("near", 3, bias=-1.0, sky__wind=0.1)
    stack.model("far", 7, bias=0.5, sky__wind=-0.2, hour=0.01)
    return stack


def near(wind: float) -> float:
    return linear(-1.0, 0.1 * wind)


def far(wind: float, hour: float = 17.0) -> float:
    return linear(0.5, -0.2 * wind, 0.01 * hour)


def test_a_sequence_passes_columns_on_and_a_function_may_replace_one(tmp_path: Path) -> None:
    def calm(sky__wind: Any) -> Any:
        return np.minimum(sky__wind, 5.0)

    def half(near: Any, hour: Any) -> Any:
        return near / 2 + hour * 0

    stack = made(tmp_path, tm.sequence(tm.function(calm, gives="sky__wind"), NEAR, half))
    answers = stack.answers({"sky__wind": 3.0}, {"sky__wind": 50.0}, {"sky__wind": None})
    assert [a.score for a in answers] == pytest.approx([near(3) / 2, near(5) / 2, near(0) / 2], rel=1e-12)
    first = stack.service.graph.nodes[0]
    assert [(v.node, v.version, v.model) for v in answers[0].route][1:3] == [("calm", first.code, ""), ("near", "3", "near")]
    assert answers[0].route is answers[1].route, "equal routes are one value"
    assert answers[1].values[0] == 50.0, "the log has what the request brought"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"combine": "mean"}, (near(3) + far(3)) / 2),
        ({"combine": "weighted", "weights": (0.25, 0.75)}, near(3) * 0.25 + far(3) * 0.75),
        ({"combine": "vote"}, 0.5),
        ({"combine": "vote", "threshold": 0.7}, 0.0),
        ({"combine": lambda near, far, hour: np.maximum(near, far) + hour}, max(near(3), far(3)) + 17),
    ],
)
def test_an_ensemble_combines(tmp_path: Path, how: Any, expected: float) -> None:
    (answer,) = made(tmp_path, tm.ensemble(NEAR, FAR, **how)).answers({"sky__wind": 3.0})
    assert answer.score == pytest.approx(expected, rel=1e-12)
    assert route(answer) == [("near", "near", ""), ("far", "far", "")]


def test_a_switch_chooses_row_by_row(tmp_path: Path) -> None:
    graph = tm.switch("carrier", {"UA": NEAR, "AA": tm.sequence(FAR, lambda_named)}, otherwise=tm.model("far", name="rest"))
    answers = made(tmp_path, graph).answers({"carrier": "AA"}, {"carrier": "UA"}, {"carrier": None}, {"carrier": "ZZ"})
    assert [a.score for a in answers] == pytest.approx([far(3) * 2, near(3), far(3), far(3)], rel=1e-12)
    assert [[node for node, _, _ in route(a)] for a in answers] == [["far", "lambda_named"], ["near"], ["rest"], ["rest"]]


def lambda_named(far: Any) -> Any:
    return far * 2


def test_a_condition_of_booleans_needs_no_otherwise(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.switch(strong, {True: FAR, False: NEAR}))
    assert [a.score for a in stack.answers({"sky__wind": 20.0}, {})] == pytest.approx([far(20), near(3)], rel=1e-12)
    with pytest.raises(NodeError, match=r"'switch'.*something else than True or False"):
        made(tmp_path / "b", tm.switch(lambda sky__wind: sky__wind, {True: FAR, False: NEAR})).answers({})


def test_a_splitter_is_sticky_by_entity_and_proportional(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.splitter(NEAR, FAR, weights=(0.25, 0.75), by="origin"))
    scorer = stack.ready()
    rows = [{"origin": f"o{i}"} for i in range(400)]
    answers = stack.answers(*rows, scorer=scorer)
    took = ["near" if a.score == pytest.approx(near(3)) else "far" for a in answers]
    assert took == ["near" if share_of("late/splitter", f"origin=o{i}") < 0.25 else "far" for i in range(400)]
    assert 60 < took.count("near") < 140
    assert [a.score for a in stack.answers(*rows[::-1], scorer=scorer)] == pytest.approx([a.score for a in answers][::-1], rel=1e-14)
    assert [route(a)[0][0] for a in answers] == took
    del rows[0]["origin"]
    with pytest.raises(InvalidError, match="'origin'"):
        scorer.respond(rows[:1], [answers[0].values], ["p"], [1])


def test_without_a_column_the_id_splits(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.splitter(NEAR, FAR, weights=(0.5, 0.5)))
    scorer = stack.ready()
    (one,) = stack.answers({}, ids=["x"], scorer=scorer)
    assert {a.route for a in stack.answers({}, {}, ids=["x", "x"], scorer=scorer)} == {one.route}
    with pytest.raises(InvalidError, match="send requests"):
        scorer.lineup.models[scorer.lineup.deployments[0].digest].predict([one.values])


def test_a_member_that_may_fail_is_left_out_where_it_fails(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.ensemble(NEAR, FAR, fails_on_storm, combine="mean", quorum=2))
    scorer = stack.ready()
    winds = [3.0, 40.0, 5.0, 31.0, 6.0]
    answers = stack.answers(*({"sky__wind": w} for w in winds), scorer=scorer)
    whole = [(near(w) + far(w) + w / 100) / 3 if w <= 30 else (near(w) + far(w)) / 2 for w in winds]
    assert [a.score for a in answers] == pytest.approx(whole, rel=1e-12)
    assert [route(a)[-1][0::2] for a in answers] == [("fails_on_storm", "" if w <= 30 else "failed") for w in winds]
    assert [s.rows for s in scorer.spent() if s.state] == [1, 1], "each failure is counted once, not the halves on the way"
    alone = [stack.answers({"sky__wind": w}, scorer=scorer)[0].score for w in winds]
    assert alone == pytest.approx([a.score for a in answers], rel=1e-14), "a row is answered as if it were alone"


def test_weights_are_of_those_that_answered(tmp_path: Path) -> None:
    graph = tm.ensemble(NEAR, FAR, fails_on_storm, combine="weighted", weights=(0.2, 0.3, 0.5), quorum=2)
    (answer,) = made(tmp_path, graph).answers({"sky__wind": 40.0})
    assert answer.score == pytest.approx((0.2 * near(40) + 0.3 * far(40)) / 0.5, rel=1e-12)


def test_a_combining_function_sees_nan_for_who_failed(tmp_path: Path) -> None:
    graph = tm.ensemble(NEAR, fails_on_storm, combine=lambda near, fails_on_storm: np.where(np.isnan(fails_on_storm), -1, near), quorum=1)
    assert [a.score for a in made(tmp_path, graph).answers({}, {"sky__wind": 40.0})] == pytest.approx([near(3), -1.0])


def test_fewer_than_the_quorum_is_a_failure_of_that_node_and_says_nothing_of_it(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.ensemble(NEAR, fails_on_storm))
    with pytest.raises(NodeError, match="node 'fails_on_storm' of service 'late' failed; the server's log says why") as caught:
        stack.answers({}, {"sky__wind": 40.0})
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(InvalidError, match="'sky__wind' takes numbers"):
        stack.answers({"sky__wind": "much"})


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda hour: hour[:0], "returned shape"),
        (lambda hour: np.full(len(hour), "x"), "finite number"),
        (lambda hour: hour / 0 - hour / 0, "finite number"),
        (lambda hour: {"other": hour}, "returned other where it gives made"),
        (lambda hour: np.array([np.datetime64("2013")] * len(hour)), "numbers, booleans or texts"),
    ],
)
def test_what_a_function_may_not_return(tmp_path: Path, function: Any, says: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(NodeError, match=says):
        made(tmp_path, tm.function(function, name="made")).answers({})


def test_a_function_cannot_change_what_it_reads(tmp_path: Path) -> None:
    def meddles(hour: Any) -> Any:
        hour[0] = 1
        return hour

    with pytest.raises(NodeError):
        made(tmp_path, tm.function(meddles)).answers({})


def test_a_node_that_takes_too_long_is_left_behind(tmp_path: Path) -> None:
    gate = threading.Event()

    def waits(hour: Any) -> Any:
        gate.wait(30)
        return hour

    slow = tm.function(waits, timeout="20ms")
    stack = made(tmp_path, tm.ensemble(NEAR, slow, quorum=1))
    scorer = stack.ready()
    try:
        assert scorer.lineup.apart, "whoever waits must not hold up others"
        (answer,) = stack.answers({}, scorer=scorer)
        assert (answer.score, route(answer)[-1]) == (pytest.approx(near(3)), ("waits", "", "timeout"))
        with pytest.raises(NodeTimeoutError, match=r"did not answer within 0.02 s"):
            made(tmp_path / "b", tm.sequence(NEAR, slow)).answers({})
    finally:
        gate.set()


class Waits:
    """Functions that wait: first a while, later for each other, which ends only when they are asked at once."""

    def __init__(self, members: int) -> None:
        self.meet = threading.Barrier(members)
        self.meets = False
        self.storm = ""

    def __call__(self, name: str) -> Any:
        def member(sky__wind: Any) -> Any:
            if self.meets:
                self.meet.wait(20)
            else:
                time.sleep(0.01)
            if self.storm and name >= self.storm:
                raise RuntimeError("secret")
            return sky__wind / 100

        return tm.function(member, name=name)


def test_members_that_wait_are_asked_at_once_and_named_in_their_order(tmp_path: Path) -> None:
    waits = Waits(3)
    stack = made(tmp_path, tm.ensemble(waits("a"), tm.sequence(waits("b"), NEAR), tm.ensemble(waits("c"), FAR, name="inner")))
    scorer = stack.ready()
    (alone,) = stack.answers({}, scorer=scorer)
    waits.meets = True
    (answer,) = stack.answers({}, scorer=scorer)
    assert (answer.score, route(answer)) == (alone.score, route(alone))
    assert [v.node for v in answer.route[1:]] == ["a", "b", "near", "c", "far"]
    spent = {s.node: s for s in scorer.spent()}
    assert set(spent) == {"a", "b", "near", "c", "far", "inner", "ensemble"}
    assert spent["b"].start < spent["a"].end, "their spans overlap"
    assert all(spent["ensemble"].start <= s.start <= s.end <= spent["ensemble"].end for s in spent.values())
    waits.storm = "b"
    with pytest.raises(NodeError, match="node 'b'"):
        stack.answers({}, scorer=scorer)


def test_members_that_wait_may_fail_at_once_too(tmp_path: Path) -> None:
    waits = Waits(2)
    stack = made(tmp_path, tm.ensemble(waits("a"), waits("b"), quorum=1))
    scorer = stack.ready()
    stack.answers({}, scorer=scorer)
    waits.meets, waits.storm = True, "b"
    (answer,) = stack.answers({}, scorer=scorer)
    assert (answer.score, route(answer)[-1]) == (pytest.approx(0.03), ("b", "", "failed"))


def test_members_that_compute_stay_in_one_thread(tmp_path: Path) -> None:
    threads: set[int] = set()

    def busy(sky__wind: Any) -> Any:
        threads.add(threading.get_ident())
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return sky__wind

    stack = made(tmp_path, tm.ensemble(*(tm.function(busy, name=name) for name in "ab")))
    scorer = stack.ready()
    (together,) = [node.together for node in [scorer.lineup.models[next(iter(scorer.lineup.models))]._root]]  # type: ignore[attr-defined]
    for _ in range(3):
        stack.answers({}, scorer=scorer)
    walls, computed = zip(*together._spent, strict=True)
    if sum(walls) - sum(computed) < 0.0005:  # else the machine itself kept them waiting
        assert threads == {threading.get_ident()}


def test_calls_at_once_end_also_where_no_thread_is_free() -> None:
    threads = Threads(1)
    inner, outer = Together(threads, 2), Together(threads, 2)

    def slow() -> int:
        time.sleep(0.01)
        return 1

    def nested() -> int:
        return sum(inner.run([slow, slow]))

    for _ in range(3):
        assert outer.run([nested, nested]) == [2, 2]
    assert min(inner.saves_s, outer.saves_s) > 0.001


def test_the_own_model_is_what_the_rollout_moves(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.ensemble(tm.model(), FAR))
    stack.model("late", 1, bias=1.0, gust=0.0)
    stack.model("late", 2, bias=2.0, gust=0.0)
    stack.deploy(live=1, canary=(2, 0.5), shadow=1)
    scorer = stack.ready()
    answers = stack.answers(*({} for _ in range(40)), scorer=scorer)
    by_version = {(a.version, a.role): a.score for a in answers}
    assert by_version == {(1, "live"): pytest.approx((linear(1) + far(3)) / 2), (2, "canary"): pytest.approx((linear(2) + far(3)) / 2)}
    assert {(a.version, v.version) for a in answers for v in a.route if v.node == "model"} == {(1, "1"), (2, "2")}
    compared = scorer.compare(answers)
    assert {(c.version, c.role) for c in compared} == {(1, "shadow"), (2, "shadow")}
    assert all(c.route for c in compared)
    assert all(next(iter(counts.values())).calls for counts in scorer.tally.changed().values())


def test_a_canary_that_fails_is_answered_by_the_live_version(tmp_path: Path) -> None:
    def grim(model: Any) -> Any:
        if (model > 0.85).any():
            raise ValueError
        return model

    stack = made(tmp_path, tm.sequence(tm.model(), grim))
    stack.model("late", 1, bias=1.0, gust=0.0)
    stack.model("late", 2, bias=2.0, gust=0.0)
    stack.deploy(live=1, canary=(2, 1.0))
    assert [(a.version, a.role) for a in stack.answers({})] == [(1, "live")]


def test_another_version_of_a_node_is_taken_over(tmp_path: Path) -> None:
    other = replace(LATE, name="other", features=["hour"], label=replace(LATE.label, name="other"))
    stack = made(tmp_path, tm.ensemble(NEAR, other))
    stack.model("other", 1, bias=0.0, hour=0.0)
    scorer = stack.scorer()
    with pytest.raises(UnavailableError, match="'other' has live, and nothing is"):
        scorer.refresh()
    stack.live("other", 1)
    assert (scorer.refresh(), scorer.refresh()) == (True, False)
    before = scorer.lineup
    stack.model("near", 4, bias=-2.0, sky__wind=0.0)
    assert (scorer.refresh(), scorer.refresh()) == (True, False)
    (answer,) = stack.answers({}, scorer=scorer)  # type: ignore[arg-type]
    assert [(v.model, v.version) for v in answer.route[1:]] == [("near", "4"), ("other", "1")]
    assert answer.score == pytest.approx((linear(-2) + 0.5) / 2)
    (old,) = before.models.values()
    assert isinstance(old, GraphModel)
    (new,) = scorer.lineup.models.values()
    assert isinstance(new, GraphModel)
    assert new.models["other"].model is old.models["other"].model, "what has not changed is not loaded again"
    assert (answer.model, answer.version, answer.role) == ("late", 0, "live")


def test_models_of_different_view_versions_do_not_go_together(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.ensemble(NEAR, FAR))
    stack.model("near", 5, sky__wind=0.0, meta={"views": {"sky": "sha256:a"}})
    stack.model("far", 8, sky__wind=0.0, meta={"views": {"sky": "sha256:b"}})
    scorer = stack.scorer()
    scorer._plan_for = lambda _meta: stack.plan()
    with pytest.raises(ConflictError, match="'near' and 'far' of 'late' were trained on different versions of feature view 'sky'"):
        scorer.refresh()


def test_a_model_that_reads_what_nobody_gives_is_refused(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.ensemble(NEAR, FAR))
    stack.model("far", 9, altitude=1.0)
    with pytest.raises(InvalidError, match=r"'far' of 'late' is far version 9, which reads altitude; .* add it to features="):
        stack.ready()


GRAPHS = st.recursive(
    st.sampled_from(["near", "far", "storm", "third"]),
    lambda inner: st.one_of(
        st.tuples(st.just("sequence"), st.lists(inner, min_size=1, max_size=2)),
        st.tuples(st.just("ensemble"), st.lists(inner, min_size=2, max_size=3), st.integers(1, 2)),
        st.tuples(st.just("switch"), inner, inner),
        st.tuples(st.just("splitter"), inner, inner),
    ),
    max_leaves=6,
)


def build(shape: Any, number: list[int]) -> Any:
    """A graph of a drawn shape; every node has a name of its own."""
    number[0] += 1
    name = f"n{number[0]}"
    if shape == "third":
        return tm.function(lambda sky__cover, hour: np.where(sky__cover == "cloudy", hour, 1.0), name=name)
    if shape == "storm":
        return tm.function(fails_on_storm, name=name)
    if isinstance(shape, str):
        return tm.model(shape, name=name)
    kind, *inner = shape
    if kind == "sequence":
        return tm.sequence(*(build(one, number) for one in inner[0]))
    if kind == "ensemble":
        return tm.ensemble(*(build(one, number) for one in inner[0]), quorum=min(inner[1], len(inner[0])), name=name)
    a, b = build(inner[0], number), build(inner[1], number)
    if kind == "switch":
        return tm.switch(strong, {True: a, False: b}, name=name)
    return tm.splitter(a, b, weights=(0.5, 0.5), name=name)


def test_a_row_is_answered_alike_alone_among_others_and_from_columns(tmp_path: Path) -> None:
    stack = made(tmp_path, tm.ensemble(NEAR, FAR))
    loaded = dict(next(iter(stack.ready().lineup.models.values())).models)  # type: ignore[attr-defined]
    plan, patience = stack.plan(), Patience()
    rows = st.tuples(
        st.sampled_from([None, 0.0, 3.0, 12.0, 35.0]), st.sampled_from([None, "cloudy", "x"]), st.just("UA"), st.floats(0, 24), st.just(1.0)
    )

    @settings(deadline=None)
    @given(shape=GRAPHS, rows=st.lists(rows, min_size=1, max_size=5))
    def check(shape: Any, rows: list[Any]) -> None:
        graph = build(shape, [0])
        service = replace(stack.service, graph=graph)
        models = {n.name: loaded[n.registered] for n in models_of(service.graph)}
        model = GraphModel("late", service.graph, plan.columns, models, patience, texts=plan.texts)
        ids = [f"r{i}" for i in range(len(rows))]

        def answer(base: Base, keys: list[str]) -> Any:
            try:
                scores, routes = model.answer(base, Walk(lambda _by: keys))
            except NodeError:
                return None
            return scores.tolist(), routes

        texts = frozenset({"sky__cover", "carrier"})
        together = answer(Base(plan.columns, len(rows), rows=rows, texts=texts), ids)
        arrays = {
            name: np.array([r[i] for r in rows], dtype=object if name in texts else np.float64) for i, name in enumerate(plan.columns)
        }
        assert answer(Base(plan.columns, len(rows), arrays=arrays), ids) == together
        alone = [answer(Base(plan.columns, 1, rows=[row], texts=texts), [key]) for row, key in zip(rows, ids, strict=True)]
        if together is None:
            assert None in alone
        else:
            scores, routes = together
            assert [a[1][0] for a in alone] == routes
            # ONNX Runtime computes the last rows of a batch without vector instructions, which may differ in the last bits
            assert [a[0][0] for a in alone] == pytest.approx(scores, rel=1e-14)

    check()
