"""A model card says what the ledger knows, in Markdown and HTML, and what nobody knows."""

from pathlib import Path

import pytest
from tests.support.sample_platform import SamplePlatform, empty, sample

from tidemill.api.card import Card, html, markdown, model_card
from tidemill.registry.ports import ModelVersion

META = {
    "service": "flight-delay",
    "flavor": "xgboost",
    "params": {"depth": 4},
    "trained_from_us": 0,
    "trained_to_us": 86_400_000_000,
    "trained_until_us": 90_000_000_000,
    "rows": 1000,
    "labels": {"labelled": 1000, "pending": 7},
    "signature": {"inputs": ["carrier", "traffic__dep_delay_mean_3h"], "categorical": ["carrier"]},
    "evaluation": {"from_us": 0, "until_us": 5, "slices": {"carrier=U<A|B": {"auc": 0.6, "n": 40.0}}},
    "snapshots": {"landings": 77},
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SamplePlatform:
    return sample(tmp_path_factory.mktemp("card"))


def text(card: Card) -> str:
    return markdown(card)


def test_a_version_with_everything(platform: SamplePlatform) -> None:
    version = ModelVersion("flight-delay", 8, "sha256:abc", "run-x", "champion", 1, {"auc": 0.75, "n": 500.0}, META, ("champion",))
    said = text(model_card(platform.definitions, platform.ledger, version))
    assert "# flight-delay version 8" in said
    assert "- **library**: xgboost" in said
    assert "| carrier | text |" in said
    assert "| landings | 77 |" in said
    assert r"| carrier=U&lt;A\|B | 40 | 0.6 |" in said
    assert "7 rows of its period had no label yet" in said
    assert "Values of carrier that were not in its training rows" in said
    assert "not measured by slices" not in said


def test_the_gate_s_evidence_is_told_with_its_interval(platform: SamplePlatform) -> None:
    versions = [v for v in platform.registry.versions("flight-delay") if v.status == "champion"]
    said = text(model_card(platform.definitions, platform.ledger, versions[0]))
    gate = said.partition("## Gate")[2].partition("## ")[0]
    assert "- **outcome**: promote" in gate
    assert "interval)" in gate
    assert "run-" in said.partition("## Lineage")[2]


def test_a_version_of_which_little_is_known(tmp_path: Path) -> None:
    platform = empty(tmp_path)
    said = text(model_card(platform.definitions, platform.ledger, ModelVersion("other", 1, "sha256:abc", "run-x", "registered", 1)))
    assert "not defined any more" in said
    assert "The gate has not looked at this version." in said
    assert "not measured by slices" in said


def test_html_escapes_what_people_wrote(platform: SamplePlatform) -> None:
    version = ModelVersion("flight-delay", 8, "sha256:abc", "run-x", "champion", 1, {"auc": 0.75}, META | {"flavor": "<script>"})
    page = html(model_card(platform.definitions, platform.ledger, version))
    assert "<script>" not in page
    assert "carrier=U&lt;A|B" in page
