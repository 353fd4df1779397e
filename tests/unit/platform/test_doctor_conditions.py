"""The doctor says what running servers have to do without, and that a ledger is gone."""

from pathlib import Path

from tidemill.core.conditions import Condition
from tidemill.ledger import conditions
from tidemill.platform.doctor import examine
from tidemill.platform.root import Platform
from tidemill.platform.scaffold.project import write_project


def test_the_doctor_tells_of_conditions_and_of_a_ledger_that_is_gone(tmp_path: Path) -> None:
    project = tmp_path / "kitchen"
    write_project(project)
    platform = Platform.open(project)
    now = platform.clock.now_us()
    with platform.ledger.write() as db:
        conditions.state(db, "me", [Condition("kitchen", "prediction_log", now, "answers go on", "disk full")], at_us=now)
    (found,) = [check for check in examine(project) if check.name == "serving"]
    assert (found.state, found.hint) == ("warning", "answers go on")
    assert found.text.startswith("kitchen: prediction_log since ")
    assert found.text.endswith(": disk full")
    (project / ".tidemill" / "ledger.db").rename(tmp_path / "away")
    checks = {check.name: check for check in examine(project)}
    assert "serving" not in checks
    assert (checks["ledger"].state, "put it back" in checks["ledger"].text) == ("failed", True)
    (tmp_path / "away").rename(project / ".tidemill" / "ledger.db")
    platform.close()
    assert {check.name: check.state for check in examine(project)}["ledger"] == "ok"
