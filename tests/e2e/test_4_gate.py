"""Story 4: the gate compares on the same rows, by day, with an interval, and lets nothing through that is not better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Story

from tidemill.platform.root import Platform
from tidemill.retraining import decisions, manual

pytestmark = pytest.mark.xdist_group("story")

FLIP = """
@tm.step
def flip(rows: tm.TrainingSet) -> tm.TrainingSet:
    from dataclasses import replace
    import pyarrow as pa
    wrong = pa.array(1.0 - rows.table["label"].to_numpy())
    return replace(rows, table=rows.table.set_column(rows.table.column_names.index("label"), "label", wrong))


@tm.pipeline
def train("""


def _challenge(story: Story, platform: Platform, folder: Path, *, flipped: bool) -> Mapping[str, Any]:
    """Train a challenger from changed code on the story's data, and judge it."""
    folder.mkdir()
    source = (story.project / "definitions.py").read_text()
    if flipped:
        source = source.replace("\n@tm.pipeline\ndef train(", FLIP, 1).replace(
            'model = fit(parts["train"], **best)', 'model = fit(flip(parts["train"]), **best)', 1
        )
        assert "flip(parts" in source
    (folder / "definitions.py").write_text(source)
    other = platform.beside(folder)
    service = other.definitions.service()
    result = manual.train(other.loop, service, until_us=story.until_us - 1, reason=f"challenger, flipped {flipped}", actor="test")
    assert result.status == "finished", result.error
    judged = manual.judge(other.loop, service, result.output.version)
    return {"decision": judged, "version": result.output}


def test_the_first_model_had_to_beat_the_prior(platform: Platform) -> None:
    first = [d for d in decisions.listing(platform.ledger, service="flight-delay", kind="gate") if d.subject == "flight-delay/1"]
    evidence = first[0].evidence
    assert evidence["against"] == "constant prior"
    assert evidence["blocks"] >= 5
    assert evidence["block"] == "1d"
    assert evidence["low"] < evidence["effect"] < evidence["high"] < 0
    assert evidence["n"] == sum(size for _, size, _ in evidence["differences"])


def test_a_challenger_trained_on_flipped_labels_is_rejected(story: Story, platform: Platform, tmp_path: Path) -> None:
    found = _challenge(story, platform, tmp_path / "flipped", flipped=True)
    evidence = found["decision"].evidence
    assert found["decision"].outcome == "reject"
    assert evidence["against"] == "champion"
    assert evidence["effect"] > 0.1, "it is much worse"
    assert evidence["low"] > 0
    assert platform.registry.get("flight-delay", found["version"].version).status == "rejected"


def test_a_challenger_equal_to_the_champion_is_not_promoted(story: Story, platform: Platform) -> None:
    champion = platform.registry.get("flight-delay", "champion")
    twin = platform.registry.register(
        "flight-delay",
        champion.digest,
        run_id=champion.run_id + "-twin",
        metrics=champion.metrics,
        meta=champion.meta,
        at_us=story.until_us,
    )
    _as_if_run(platform, champion.run_id, twin.run_id)
    decision = manual.judge(platform.loop, platform.definitions.service(), twin.version)
    assert decision.outcome == "reject"
    assert "exactly as the champion" in decision.evidence["reason"]
    assert platform.registry.get("flight-delay", "champion").version == champion.version


def _as_if_run(platform: Platform, run_id: str, twin_id: str) -> None:
    """The twin's run evaluated it on the same rows."""
    import sqlalchemy as sa

    from tidemill.ledger import schema

    with platform.ledger.write() as db:
        rows = [dict(r) for r in db.execute(sa.select(schema.step_run).where(schema.step_run.c.run_id == run_id)).mappings()]
        db.execute(schema.step_run.insert(), [row | {"run_id": twin_id} for row in rows])
