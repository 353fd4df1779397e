"""How far streams are followed, as JSON, as metrics and in the console."""

from pathlib import Path

from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import empty

from tidemill.api.queries import streams
from tidemill.ledger import schema
from tidemill.ledger.store import to_json, upsert


def test_what_the_follower_told_last(tmp_path: Path) -> None:
    platform = empty(tmp_path)
    with platform.ledger.read() as db:
        assert (streams.streams(db), streams.gauges(db)) == ([], {})
    told = {"table": "landings", "topic": "kafka://k:9092/landings", "taken": 9, "behind": 1200, "quarantined": {"future": 3, "type": 1}}
    with platform.ledger.write() as db:
        upsert(db, schema.state, {"name": "stream:landings:x", "value": to_json(told), "at_us": 5})
    with platform.ledger.read() as db:
        assert streams.streams(db) == [told | {"at_us": 5}]
        assert streams.gauges(db) == {
            "stream_behind_events": {'table="landings",topic="kafka://k:9092/landings"': 1200},
            "stream_quarantined_total": {'table="landings",kind="future"': 3, 'table="landings",kind="type"': 1},
        }
    client = Client(*build(platform))
    assert client.get("/api/v1/features").json()["streams"] == [told | {"at_us": 5}]
    page = client.get("/features").text
    assert "1,200" in page
    assert "3 future, 1 type" in page
