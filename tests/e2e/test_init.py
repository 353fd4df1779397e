"""What `tidemill init` writes works: its tests pass, its whole loop runs, and the loop is worth something."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
FROM, TO = "2024-01-22", "2024-03-01"


def tidemill(*args: str, ok: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([sys.executable, "-m", "tidemill.cli", *args], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in ok, f"tidemill {' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "kitchen"
    tidemill("init", str(folder))
    return folder


@pytest.fixture(scope="module")
def report(project: Path) -> Any:
    return json.loads(tidemill("replay", "--project", str(project), "--from", FROM, "--to", TO, "--policy", "on-drift,never", "--json"))


def test_the_same_project_is_written_every_time(project: Path, tmp_path: Path) -> None:
    again = tmp_path / "kitchen"
    tidemill("init", str(again))
    files = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert len(files) > 120
    assert all((again / name).read_bytes() == (project / name).read_bytes() for name in files)


def test_its_own_tests_pass(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_loop_learns_from_the_change_and_never_does_not(report: Any) -> None:
    figures = {p["name"]: p for p in report["policies"]}
    assert figures["never"]["trainings"] == 1
    assert figures["on-drift"]["trainings"] >= 2
    assert figures["on-drift"]["promotions"] >= 2
    assert figures["never"]["log_loss"] - figures["on-drift"]["log_loss"] > 0.005
    assert figures["never"]["n"] == figures["on-drift"]["n"] > 4000


def test_every_run_has_a_cause_and_every_promotion_a_decision(project: Path, report: Any) -> None:
    runs = json.loads(tidemill("runs", "--project", str(project), "--json"))
    assert {r["cause_kind"] for r in runs} <= {"new_data", "drift", "quality", "schedule"}
    decisions = json.loads(tidemill("decisions", "--project", str(project), "--json", "--limit", "200"))
    live = json.loads(tidemill("rollout", "--project", str(project), "--json"))
    assert live[0]["decision_id"] in {d["id"] for d in decisions}


def test_served_equals_offline(project: Path, report: Any) -> None:
    found = json.loads(tidemill("features", "--project", str(project), "verify", "--json"))
    assert found["differences"] == 0
    assert found["rows"] > 4000


def test_why_goes_back_to_the_rows(project: Path, report: Any) -> None:
    listed = json.loads(tidemill("predict", "--project", str(project), "list", "--limit", "20", "--json"))
    last = next(row for row in listed if row["role"] != "shadow")
    found = json.loads(tidemill("why", "--project", str(project), last["id"], "--json"))
    assert found["model"]["uri"].endswith(f"/{last['version']}")
    assert found["run"]["cause"]["kind"] in ("drift", "quality", "new_data")
    assert found["decision"]["outcome"] in ("promote", "advance")
    assert any(row["use"] == "used" for f in found["features"] for row in f["rows"])


def test_every_listing_reads_the_ledger(project: Path, report: Any) -> None:
    for command in (
        "ingest list",
        "validate",
        "features",
        "tune",
        "runs",
        "models",
        "rollout",
        "labels",
        "monitor",
        "decisions",
        "ledger",
        "doctor",
    ):
        first, *rest = command.split()
        found = json.loads(tidemill(first, "--project", str(project), *rest, "--json"))
        assert found or command == "tune", command
        assert tidemill(first, "--project", str(project), *rest)
