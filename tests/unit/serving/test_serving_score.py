import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_kit import FULL, LOOKUP, Stack, sigmoid

from tidemill.core.errors import CorruptError, InvalidError, NotFoundError, UnavailableError
from tidemill.serving import Scorer
from tidemill.serving.ports import Prediction
from tidemill.testing.models import write_linear_model


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    made = Stack(tmp_path)
    for version in (1, 2, 3):
        made.add(version)
    return made


def answer(scorer: Scorer, ids: list[str], request: dict[str, Any] = FULL) -> list[Prediction]:
    requests = [request] * len(ids)
    at_us = [i * 1000 for i in range(len(ids))]
    return scorer.answer(requests, scorer.plan.inputs(requests, at_us), ids, at_us)


IDS = [f"flight-{i}" for i in range(200)]


def test_answers_are_logged_with_what_they_were_made_from(stack: Stack) -> None:
    stack.deploy(live=1)
    scorer = stack.scorer()
    assert scorer.refresh() is True
    [got] = answer(scorer, ["a"], LOOKUP)
    assert (got.id, got.service, got.model, got.version, got.role, got.at_us) == ("a", "late", "late", 1, "live", 0)
    assert got.score == pytest.approx(sigmoid(1.0))
    assert dict(zip(got.columns, got.values, strict=True)) == FULL
    assert got.request == LOOKUP
    assert stack.log.find("a") == [got]


def test_every_request_is_compared_while_there_is_a_canary(stack: Stack) -> None:
    stack.deploy(live=1, canary=(2, 0.3), shadow=3)
    scorer = stack.scorer()
    scorer.refresh()
    answers = answer(scorer, IDS)
    assert [p.id for p in answers] == IDS
    by_role = {role: {p.id for p in answers if p.role == role} for role in ("live", "canary")}
    assert 30 < len(by_role["canary"]) < 90
    assert by_role["live"] | by_role["canary"] == set(IDS)
    for name in IDS:
        records = {(p.version, p.role) for p in stack.log.find(name)}
        assert records == (
            {(1, "live"), (2, "shadow"), (3, "shadow")} if name in by_role["live"] else {(2, "canary"), (1, "shadow"), (3, "shadow")}
        )
    assert all(p.score == pytest.approx(sigmoid(p.version)) for p in stack.log.read("late"))


def test_without_a_canary_only_shadows_are_scored_beside(stack: Stack) -> None:
    stack.deploy(live=2, shadow=1)
    scorer = stack.scorer()
    scorer.refresh()
    answer(scorer, IDS[:3])
    assert sorted((p.version, p.role) for p in stack.log.read("late")) == [(1, "shadow")] * 3 + [(2, "live")] * 3


def test_an_answer_again_is_remembered_once(stack: Stack) -> None:
    stack.deploy(live=1, shadow=2)
    scorer = stack.scorer()
    scorer.refresh()
    assert [p.score for p in answer(scorer, IDS)] == [p.score for p in answer(scorer, IDS)]
    assert len(list(stack.log.read("late"))) == 400


def test_nothing_live(stack: Stack) -> None:
    scorer = stack.scorer()
    assert scorer.refresh() is False
    with pytest.raises(UnavailableError, match="deploy a model version"):
        answer(scorer, ["a"])


def test_one_version_can_be_asked_for(stack: Stack) -> None:
    stack.deploy(live=1, shadow=3)
    scorer = stack.scorer()
    scorer.refresh()
    [got] = scorer.respond([{}], [tuple(FULL.values())], ["a"], [1], version=3)
    assert (got.version, got.role) == (3, "shadow")
    with pytest.raises(NotFoundError, match="'2'"):
        scorer.respond([{}], [tuple(FULL.values())], ["a"], [1], version=2)


def test_refresh_takes_over_and_keeps_who_it_knows(stack: Stack) -> None:
    stack.deploy(live=1)
    scorer = stack.scorer()
    scorer.refresh()
    assert scorer.refresh() is False
    first = scorer.lineup
    stack.deploy(live=1, canary=(2, 0.5))
    assert scorer.refresh() is True
    assert scorer.lineup.models[scorer.lineup.deployments[0].digest] is first.models[first.deployments[0].digest]
    assert len(first.models) == 1, "requests in flight keep the line-up they began with"


def _flip_a_byte(stack: Stack, digest: str) -> None:
    path = stack.blobs.fetch(digest) / "model.onnx"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_corrupted_challenger_is_left_out_and_live_answers(stack: Stack) -> None:
    stack.deploy(live=1, canary=(2, 1.0))
    with stack.ledger.read() as db:
        digest = str(db.exec_driver_sql("SELECT digest FROM model_version WHERE version = 2").scalar())
    _flip_a_byte(stack, digest)
    scorer = stack.scorer()
    assert scorer.refresh() is True
    assert [d.version for d in scorer.lineup.deployments] == [1]
    [reason] = scorer.lineup.failures.values()
    assert reason.count("sha256:") >= 2
    assert answer(scorer, ["a"])[0].version == 1
    assert scorer.refresh() is False


def test_a_corrupted_live_model_never_replaces_a_good_one(stack: Stack) -> None:
    stack.deploy(live=1)
    scorer = stack.scorer()
    scorer.refresh()
    _flip_a_byte(stack, stack.add(4))
    stack.deploy(live=4)
    with pytest.raises(CorruptError):
        scorer.refresh()
    assert answer(scorer, ["a"])[0].version == 1


def test_a_deployed_digest_must_be_the_registered_one(stack: Stack) -> None:
    stack.deploy(live=1)
    scorer = stack.scorer()
    [found] = scorer._router.deployments("late")

    class Other:
        def get(self, name: str, version: int) -> Any:
            return type("V", (), {"digest": "sha256:other"})

    scorer.registry = Other()  # type: ignore[assignment]
    with pytest.raises(CorruptError, match=rf"sha256:other.*{found.digest}"):
        scorer.refresh()


def test_a_model_of_other_columns_is_refused(stack: Stack, tmp_path: Path) -> None:
    stack.add(5, folder=write_linear_model(tmp_path / "other", {"sky__wind": 1.0, "altitude": 1.0}))
    stack.deploy(live=5)
    with pytest.raises(InvalidError, match="it needs altitude"):
        stack.scorer().refresh()


def test_answers_go_on_while_deployments_change(stack: Stack) -> None:
    stack.deploy(live=1)
    scorer = stack.scorer()
    scorer.refresh()
    stop, seen, failures = threading.Event(), set(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                [got] = scorer.respond([{}], [tuple(FULL.values())], ["a"], [1])
                seen.add((got.version, round(got.score, 6)))
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    for version in (2, 3, 1, 2):
        stack.deploy(live=version)
        scorer.refresh()
    stop.set()
    thread.join()
    assert failures == []
    assert seen <= {(v, round(sigmoid(v), 6)) for v in (1, 2, 3)}
