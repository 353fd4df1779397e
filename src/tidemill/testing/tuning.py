"""What every `Tuner` must keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tidemill.core.errors import InvalidError
from tidemill.testing.contract import Contract, keeps
from tidemill.tuning.ports import Range, Study, Trial, Tuner

SPACE = {
    "leaves": Range("integer", 7, 127),
    "rate": Range("log", 0.01, 0.3),
    "share": Range("real", 0.0, 1.0),
    "kind": Range("choice", choices=("a", "b")),
}
Objective = Callable[[Mapping[str, Any], Trial], float]


class Killed(BaseException):
    """Like kill -9: a tuner must not handle it."""


def bowl(params: Mapping[str, Any], _trial: Trial) -> float:
    """Least at leaves 31, share 0.5, kind b."""
    return float(abs(params["leaves"] - 31) / 100 + (params["share"] - 0.5) ** 2 + (params["kind"] == "a") + params["rate"])


class TunerContract(Contract):
    """Supply `make`: it answers a tuner over a new, empty store each time, and one over the store of `name` when called with one."""

    @keeps("repeatable")
    def test_the_same_search_gives_the_same_trials(self, make: Callable[[str], Tuner]) -> None:
        one = make("one").search("s", bowl, SPACE, trials=12, seed=7)
        two = make("two").search("s", bowl, SPACE, trials=12, seed=7)
        other = make("three").search("s", bowl, SPACE, trials=12, seed=8)
        assert one.trials == two.trials
        assert one.trials != other.trials
        assert one.best == min(one.trials, key=lambda t: t.value or 0.0).params
        assert [trial.number for trial in one.trials] == list(range(12))

    def test_values_lie_in_their_ranges(self, make: Callable[[str], Tuner]) -> None:
        for trial in make("one").search("s", bowl, SPACE, trials=12, seed=1).trials:
            assert isinstance(trial.params["leaves"], int)
            assert 7 <= trial.params["leaves"] <= 127
            assert 0.01 <= trial.params["rate"] <= 0.3
            assert 0 <= trial.params["share"] <= 1
            assert trial.params["kind"] in ("a", "b")

    @keeps("resumable")
    def test_a_killed_study_goes_on_as_if_it_had_not_been(self, make: Callable[[str], Tuner]) -> None:
        whole = make("whole").search("s", bowl, SPACE, trials=14, seed=3)
        calls: list[int] = []

        def killed(params: Mapping[str, Any], trial: Trial) -> float:
            if trial.number == 10:
                raise Killed
            calls.append(trial.number)
            return bowl(params, trial)

        with pytest.raises(Killed):
            make("broken").search("s", killed, SPACE, trials=14, seed=3)
        resumed = make("broken").search("s", _counting(bowl, calls), SPACE, trials=14, seed=3)
        assert calls == list(range(14))
        assert resumed == whole

    def test_a_finished_study_is_not_searched_again(self, make: Callable[[str], Tuner]) -> None:
        calls: list[int] = []
        first = make("one").search("s", _counting(bowl, calls), SPACE, trials=5, seed=3)
        assert make("one").search("s", _counting(bowl, calls), SPACE, trials=5, seed=3) == first
        assert len(calls) == 5

    def test_studies_do_not_see_each_other(self, make: Callable[[str], Tuner]) -> None:
        tuner = make("one")
        tuner.search("s", bowl, SPACE, trials=3, seed=3)
        assert len(tuner.search("t", bowl, SPACE, trials=2, seed=3).trials) == 2

    @keeps("enqueued")
    def test_start_points_come_first_in_order(self, make: Callable[[str], Tuner]) -> None:
        points = ({"leaves": 31, "rate": 0.05, "share": 0.5, "kind": "b"}, {"leaves": 63, "rate": 0.1, "share": 0.25, "kind": "a"})
        trials = make("one").search("s", bowl, SPACE, trials=4, seed=3, start=points).trials
        assert [trial.params for trial in trials[:2]] == list(points)

    def test_a_start_point_outside_of_the_space_is_refused(self, make: Callable[[str], Tuner]) -> None:
        for point in ({"leafs": 31}, {"leaves": 1}, {"kind": "c"}):
            with pytest.raises(InvalidError, match="start point"):
                make("one").search("s", bowl, SPACE, trials=4, seed=3, start=(point,))

    @keeps("tolerant")
    def test_a_trial_that_raises_or_answers_nan_has_failed_and_the_study_goes_on(self, make: Callable[[str], Tuner]) -> None:
        def fragile(params: Mapping[str, Any], trial: Trial) -> float:
            if trial.number == 1:
                raise ValueError("no luck")
            return float("nan") if trial.number == 2 else bowl(params, trial)

        study = make("one").search("s", fragile, SPACE, trials=5, seed=3)
        assert [trial.state for trial in study.trials] == ["complete", "failed", "failed", "complete", "complete"]
        assert study.value == min(trial.value for trial in study.trials if trial.value is not None)

    @keeps("tolerant")
    def test_only_when_all_fail_is_it_an_error(self, make: Callable[[str], Tuner]) -> None:
        def broken(_params: Mapping[str, Any], _trial: Trial) -> float:
            raise ValueError("no luck")

        with pytest.raises(InvalidError, match="no luck"):
            make("one").search("s", broken, SPACE, trials=3, seed=3)

    def test_it_finds_a_better_point_than_chance(self, make: Callable[[str], Tuner]) -> None:
        study: Study = make("one").search("s", bowl, SPACE, trials=40, seed=3)
        assert study.best["kind"] == "b"
        assert study.value < 0.4


def _counting(objective: Objective, calls: list[int]) -> Objective:
    def counted(params: Mapping[str, Any], trial: Trial) -> float:
        calls.append(trial.number)
        return objective(params, trial)

    return counted
