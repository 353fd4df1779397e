"""Every page answers from the sample year, in time, escaped, and says what to do when there is nothing."""

import re
from typing import Any

import pytest
import sqlalchemy as sa
from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import SamplePlatform, empty

from tidemill.api.queries.times import as_of
from tidemill.console.render import NAV
from tidemill.core.definitions import Definitions
from tidemill.core.instants import HOUR_US
from tidemill.features.freshness import Freshness, note
from tidemill.ledger import schema
from tidemill.ledger.store import to_json

PATHS = (
    "/", "/fragments/loop", "/data", "/data?status=rejected", "/data?offset=1400", "/data/landings", "/data/weather?status=rejected", "/features", "/features/legs",
    "/features/legs?tailnum=N110UA&at=2013-12-30T12:00:00Z", "/runs", "/runs?status=failed", "/models", "/models/flight-delay/1", "/models/flight-delay/4",
    "/models/flight-delay/8", "/models/flight-delay/8/card", "/services", "/monitoring", "/monitoring?objective=auc", "/decisions", "/decisions?kind=gate&outcome=reject", "/replay", "/replay/2013",
    "/predictions", "/predictions/flight-0400",
)  # fmt: skip


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(*build(empty(tmp_path_factory.mktemp("blank"), Definitions())))


@pytest.mark.parametrize("path", PATHS)
def test_page_answers_with_everything_it_needs(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text[:300]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Undefined" not in answer.text
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)
    assert not re.search(r"\son[a-z]+=|\sstyle=", answer.text), "handlers and styles belong in files"


@pytest.mark.parametrize("path", PATHS)
def test_a_page_reads_a_bounded_part_of_the_ledger(client: Client, platform: SamplePlatform, path: str) -> None:
    statements: list[str] = []

    def count(_db: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    sa.event.listen(platform.ledger.engine, "before_cursor_execute", count)
    try:
        answer = client.get(path)
    finally:
        sa.event.remove(platform.ledger.engine, "before_cursor_execute", count)
    assert len(statements) <= 45
    assert len(answer.content) < 150_000
    listings = [s for s in statements if any(f"FROM {t}" in s for t in ("batch", "event", "observation", "decision", "metric"))]
    assert [
        s for s in listings if not any(word in s for word in ("LIMIT", "GROUP BY", "DISTINCT", ".id = ?", "max(", "run_id", "subject = ?"))
    ] == []


def test_every_run_batch_and_decision_has_a_page(client: Client, platform: SamplePlatform) -> None:
    with platform.ledger.read() as db:
        wanted = [f"/runs/{i}" for i in db.execute(sa.select(schema.run.c.id)).scalars()]
        wanted += [f"/decisions/{i}" for i in db.execute(sa.select(schema.decision.c.id)).scalars()]
        wanted += [f"/batches/{i}" for i in db.execute(sa.select(schema.batch.c.id).where(schema.batch.c.status == "rejected")).scalars()]
    assert {path: client.get(path).status_code for path in wanted} == dict.fromkeys(wanted, 200)


@pytest.mark.parametrize("path", [path for _, path, _, _ in NAV])
def test_an_empty_project_says_what_to_do_next(blank: Client, path: str) -> None:
    answer = blank.get(path)
    assert answer.status_code == 200
    assert re.search(r"<code>(tidemill |tm\.|POST )", answer.text) or "kept here for good" in answer.text


def test_text_of_others_never_becomes_markup(tmp_path_factory: pytest.TempPathFactory) -> None:
    platform = empty(tmp_path_factory.mktemp("hostile"))
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    anomaly = {"column": attack, "rule": "range", "expected": attack, "observed": attack, "rows": 1}
    with platform.ledger.write() as db:
        row = {
            "id": "b1",
            "table_name": "landings",
            "source": attack,
            "status": "rejected",
            "rows": 3,
            "snapshot_id": None,
            "branch": None,
            "cursor": "",
        }
        db.execute(schema.batch.insert(), [{**row, "anomalies": to_json([anomaly]), "digest": attack, "at_us": 1, "wall_ms": 1.0}])
        evidence = {"reason": attack, "effect": 0.1, "low": 0.0, "high": 0.2, "series": [[1, 2, 0.1, 0.0, 0.2]] * 3, attack: attack}
        decision = {
            "id": "d1",
            "kind": attack,
            "service": "flight-delay",
            "subject": attack,
            "outcome": attack,
            "cause": to_json({attack: attack}),
        }
        db.execute(schema.decision.insert(), [{**decision, "evidence": to_json(evidence), "actor": attack, "reverses": None, "at_us": 1}])
        body = {"id": "r1", "service": attack, "from_us": 0, "until_us": 1, "primary": attack, "policies": [
            {"name": attack, "log_loss": 0.5, "auc": None, "n": 1, "trainings": 0, "minutes": 0.0, "promotions": 0, "rollbacks": 0,
             "weeks": [{"week_us": 0, "log_loss": 0.5, "n": 1}], "events": [{"at_us": 0, "kind": "rollback", "text": attack}]}]}  # fmt: skip
        db.execute(schema.state.insert(), [{"name": "replay:r1", "value": to_json(body), "at_us": 1}])
    client = Client(*build(platform))
    for path in (
        "/",
        "/data",
        "/data/landings",
        "/batches/b1",
        "/decisions",
        "/decisions/d1",
        "/replay/r1",
        f"/runs/{attack}",
        "/login?next=" + attack,
    ):
        text = client.get(path).text
        assert "<script>alert" not in text, path
        assert "<img" not in text, path


def test_the_loop_shows_champion_canary_and_what_was_refused(client: Client) -> None:
    text = client.get("/").text
    assert 'href="/models/flight-delay/8"' in text
    assert "canary v10" in text
    assert "landings refused" in text
    assert 'aria-current="page"' in text


def test_a_failed_run_names_the_step_and_the_cached_ones(client: Client, platform: SamplePlatform) -> None:
    with platform.ledger.read() as db:
        run_id = db.execute(sa.select(schema.run.c.id).where(schema.run.c.status == "failed")).scalar_one()
    text = client.get(f"/runs/{run_id}").text
    assert "num_leaves must be greater than 1" in text
    assert "same code, inputs, parameters and versions as before" in text
    assert "tables landings: 8239 → 8240" not in text
    assert 'href="#step-fit"' in text


def test_a_run_says_which_part_of_the_key_changed(client: Client, platform: SamplePlatform) -> None:
    with platform.ledger.read() as db:
        run_id = db.execute(sa.select(schema.model_version.c.run_id).where(schema.model_version.c.version == 5)).scalar_one()
    text = client.get(f"/runs/{run_id}").text
    assert "parameter until" in text
    assert "landings: 8235 → 8236" in text


def test_the_explanation_separates_used_from_not_yet_known(client: Client) -> None:
    text = client.get("/features/legs?tailnum=N110UA&at=2013-12-30T12:00:00Z").text
    assert text.count('class="source used"') == 1
    assert 'class="source not_yet' in text
    assert "is not an ISO 8601 time" in client.get("/features/legs?tailnum=N1&at=soon").text


def test_views_say_how_far_their_online_state_lags(client: Client, platform: SamplePlatform) -> None:
    with platform.ledger.read() as db:
        now = as_of(db, platform.clock)
    note(platform.ledger, [Freshness("legs", now - 3 * HOUR_US, 3 * HOUR_US, None)], now_us=now)
    text = client.get("/features").text
    assert "online state 3h behind" in text
    assert ">late<" not in text, "nothing was promised"


def test_an_unknown_page_is_a_page(client: Client) -> None:
    for path in ("/data/nope", "/models/flight-delay/99", "/decisions/nope", "/predictions/nope", "/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "Back to the loop" in answer.text
    assert client.get("/runs?offset=-1").status_code == 400
    assert client.get("/runs/compare?run=one").status_code == 400
