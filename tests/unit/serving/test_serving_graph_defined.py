"""Graphs as they are written down: what fits, and what an error says to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.support.serving_kit import LATE

import tidemill as tm
from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError
from tidemill.core.graphs import FunctionNode, ModelNode, graph_body, graph_version, nodes_of


def clean(sky__wind: Any) -> Any:
    return sky__wind


def louder(sky__wind: Any) -> Any:
    return sky__wind * 2


def service(graph: Any, **changes: Any) -> Service:
    return replace(LATE, graph=graph, **changes)


NUMBER: Any = 3
HOURLY = replace(LATE, name="by-hour", features=["hour"], label=replace(LATE.label, name="hourly"))


def test_nodes_are_named_by_what_they_are() -> None:
    made = service(tm.sequence(clean, tm.ensemble(tm.model(), HOURLY, tm.model("old-one", version=3), tm.model("new", alias="challenger"))))
    found = list(nodes_of(made.graph))
    assert [n.name for n in found] == ["ensemble", "clean", "ensemble", "model", "by_hour", "old_one", "new"]
    assert [n.wanted for n in found if isinstance(n, ModelNode)] == ["live", "live", "version 3", "challenger"]
    assert made.own_model
    assert not service(HOURLY).own_model, "a service alone is a graph of its live model"
    assert isinstance(service(tm.on_demand(clean)).graph, FunctionNode)


def test_a_version_of_the_graph_changes_with_what_it_means() -> None:
    def graph(function: Any = clean, weights: tuple[float, float] = (0.5, 0.5), threshold: float = 0.5) -> Any:
        split = tm.splitter(tm.model("a"), tm.model("b"), weights=weights)
        return tm.sequence(function, tm.ensemble(split, tm.model("c"), combine="vote", threshold=threshold))

    assert graph_version(graph()) == graph_version(graph())
    versions = {graph_version(g) for g in (graph(), graph(louder), graph(weights=(0.4, 0.6)), graph(threshold=0.6))}
    assert len(versions) == 4
    assert graph_body(graph())["nodes"][1]["nodes"][0] == {
        "kind": "splitter", "name": "splitter", "weights": [0.5, 0.5], "by": "",
        "nodes": [{"kind": "model", "name": n, "model": n, "version": "champion", "timeout_us": 0} for n in "ab"],
    }  # fmt: skip


def two(x: str, y: str, **how: Any) -> Any:
    return tm.ensemble(tm.model(x), tm.model(y), **how)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: service(tm.sequence(clean, "near")), r"'near' is no node of a graph; write tm.model\('near'\)"),
        (lambda: service(3), "3 is no node of a graph; write a function, a service"),
        (lambda: two("a", "a"), "'ensemble' has two members named a; give one of them name="),
        (lambda: service(tm.sequence(tm.model("a"), tm.model("a"))), "two nodes named a; give one of them name="),
        (lambda: service(tm.sequence(tm.model(), tm.model(name="again"))), "names its own model twice"),
        (lambda: service(tm.model("a", name="hour")), "'hour' of 'late' gives a column that is there already; give it another name="),
        (lambda: service(lambda hour: hour), "'<lambda>' cannot name a node"),
        (lambda: service(tm.function(lambda nope: nope, name="f")), "node 'f' in the graph of 'late' reads nope, which .* there is carrier"),
        (lambda: service(tm.sequence(tm.model("a"), tm.function(lambda b: b, name="f"))), "reads b, .* Add what is missing to features="),
        (lambda: service(replace(HOURLY, name="other", features=["altitude"])), "node 'other' .* reads altitude"),
        (lambda: service(tm.switch(lambda far: far, {True: clean, False: louder})), "the condition of 'switch' .* reads far"),
        (lambda: service(two("a", "b", combine=lambda a, c: a + c)), "the combine function of 'ensemble' .* reads c"),
        (lambda: two("a", "b", combine=lambda *all_: all_), "must name the columns that it reads"),
        (lambda: two("a", "b", combine="median"), "combine='median' is none of mean, weighted, vote and no function"),
        (lambda: two("a", "b", combine="weighted"), "give both or neither"),
        (lambda: two("a", "b", weights=(0.5, 0.5)), "give both or neither"),
        (lambda: two("a", "b", combine="weighted", weights=(0.5, 0.6)), "0.5, 0.6; they must be at least 0 and 1 together"),
        (lambda: tm.splitter(clean, louder, weights=(1.5, -0.5)), "at least 0 and 1 together"),
        (lambda: tm.splitter(clean, louder, weights=(1.0,)), "has 1 weights for 2 nodes; give one a node"),
        (lambda: service(tm.splitter(clean, louder, weights=(0.5, 0.5), by="altitude")), "cannot split by 'altitude'; requests have carrier, fac"),
        (lambda: two("a", "b", quorum=3), "quorum=3 is not between 1 and its 2 members"),
        (lambda: tm.ensemble(clean), "takes two nodes at least, not 1"),
        (lambda: tm.sequence(), "takes a node at least, not 0"),
        (lambda: tm.switch("carrier", {"UA": clean}), "does not say who answers what no case names; add otherwise="),
        (lambda: tm.switch("carrier", {None: clean}, otherwise=louder), "a case is a text, a number or a boolean, not None"),
        (lambda: tm.switch("carrier", [clean]), "cases are nodes by value"),
        (lambda: tm.switch(NUMBER, {True: clean, False: louder}), "by= is a column or a function of columns, not 3"),
        (lambda: service(tm.function(clean, gives=("a", "b"))), "ends with 'clean', which gives a, b; an answer is one column"),
        (lambda: service(tm.ensemble(tm.function(clean, gives=("a", "b")), louder)), "'clean' in 'ensemble' of 'late' gives a, b"),
        (lambda: tm.model("a", version=1, alias="champion"), "has a version and an alias; give one of them"),
        (lambda: tm.model(version=1), "name a model to pin a version"),
        (lambda: tm.model(HOURLY, version=1), r"write tm.model\('by-hour'\)"),
        (lambda: tm.model(3), "takes a registered name or a service, not int"),
        (lambda: tm.model(service(clean)), r"answers by a graph, and a graph is no node; name its nodes here as well, or tm.model\('late'\)"),
        (lambda: tm.function(clean, timeout="soon"), "'soon' is not a duration"),
        (lambda: service(clean, retrain=[tm.every("1d")], rollout=tm.Rollout(shadow="2d")), r"has retrain= and rollout=, .* put tm.model\(\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_what_to_do(made: Callable[[], Any], says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        made()


def test_what_stands_inside_is_seen_inside_alone() -> None:
    inner = tm.switch("carrier", {"UA": tm.sequence(clean, tm.function(lambda clean: clean, name="tidy"))}, otherwise=louder)
    service(inner)
    with pytest.raises(InvalidError, match="reads tidy"):
        service(tm.sequence(inner, tm.function(lambda tidy: tidy, name="f")))
    service(tm.sequence(inner, tm.function(lambda switch: switch, name="f")))
