"""A share of the log: decided by the id, said in the answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.serving_kit import FULL, Local, Stack, body

from tidemill.core.errors import InvalidError
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.sampled import SampledLog, is_kept, said
from tidemill.testing.serving import prediction

IDS = [f"id-{i:06d}" for i in range(4000)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_share_is_kept_and_a_larger_one_keeps_it_too(share: float) -> None:
    kept = {id_ for id_ in IDS if is_kept(id_, share)}
    assert abs(len(kept) / len(IDS) - share) <= 3 * (share * (1 - share) / len(IDS)) ** 0.5
    assert kept <= {id_ for id_ in IDS if is_kept(id_, min(1.0, share + 0.2))}


def test_what_an_answer_says() -> None:
    inside = next(id_ for id_ in IDS if is_kept(id_, 0.3))
    outside = next(id_ for id_ in IDS if not is_kept(id_, 0.3))
    assert (said([inside], 0.3), said([outside], 0.3), said([inside, outside], 0.3), said([outside], 1.0)) == (
        True,
        "not sampled",
        "sampled in part",
        True,
    )


def test_answers_and_their_shadows_are_kept_together(tmp_path: Path) -> None:
    inner = SqlitePredictionLog(tmp_path / "p.db")
    log = SampledLog(inner, 0.4)
    log.append([prediction(i) for i in range(200)])
    log.append([prediction(i, role="shadow", version=2) for i in range(200)])
    found = inner.scores("svc")
    live, shadow = ({id_ for id_, r in zip(found["id"], found["role"], strict=True) if r == role} for role in ("live", "shadow"))
    assert live == shadow
    assert 50 < len(live) < 110
    assert [p.id for p in log.read("svc", roles=["live"])] == sorted(live)


def test_a_share_is_a_share(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="0 to 1"):
        SampledLog(SqlitePredictionLog(tmp_path / "p.db"), 1.5)


def test_a_server_says_which_answers_are_not_logged(tmp_path: Path) -> None:
    inner = SqlitePredictionLog(tmp_path / "predictions.db")
    stack = Stack(tmp_path, log=SampledLog(inner, 0.5))
    stack.add(1)
    stack.deploy(live=1)

    async def script() -> None:
        async with Local(stack, log_share=0.5) as local:
            for id_ in IDS[:40]:
                told = (await local.infer(body(FULL, id=id_))).json()["parameters"]["logged"]
                assert told == (True if is_kept(id_, 0.5) else "not sampled")
            assert (await local.infer(body(FULL, rows=40, id="many"))).json()["parameters"]["logged"] == "sampled in part"

    asyncio.run(script())
    assert {p.id for p in inner.read("late")} >= {id_ for id_ in IDS[:40] if is_kept(id_, 0.5)}
    assert not {p.id for p in inner.read("late")} & {id_ for id_ in IDS[:40] if not is_kept(id_, 0.5)}
