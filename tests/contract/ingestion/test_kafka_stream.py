"""The stream on a real Kafka broker, and what only Kafka has: partitions, transactions, retention, a broker that dies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from tests.support.follow_kit import NOW, event, follower
from tests.support.kafka_server import PASSWORD, USER, Broker, kafka_broker

from tidemill.adapters.kafka.ingestion import open_stream, open_topic
from tidemill.cli.app import cli
from tidemill.core.definitions import Table
from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.features.embedded import OnlineReader, SqliteOnlineStore
from tidemill.ingestion import EventQuarantine
from tidemill.ingestion.embedded import LogStream, open_source
from tidemill.ingestion.ports import Batch, Extent, Stream
from tidemill.platform.doctor import examine
from tidemill.retraining.follow import Follower
from tidemill.testing.ingestion import StreamContract
from tidemill.testing.reference import DEFINITIONS, KEYED

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "streams"
pytestmark = [pytest.mark.live, pytest.mark.xdist_group("kafka")]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with kafka_broker(tmp_path_factory.mktemp("kafka"), tls=shutil.which("openssl") is not None) as running:
        yield running


class TestKafkaStream(StreamContract):
    @pytest.fixture
    def reopen(self, broker: Broker) -> Callable[[], Stream]:
        return partial(open_stream, broker.url(f"t{uuid4().hex}"), "project")

    @pytest.fixture
    def stream(self, reopen: Callable[[], Stream]) -> Stream:
        return reopen()


class Others:
    """Who writes to topics as others do: keys, partitions, transactions."""

    def __init__(self, broker: Broker, topic: str, partitions: int = 1, **settings: str) -> None:
        self.topic, self.config = topic, {"bootstrap.servers": broker.hosts}
        self.admin = AdminClient(self.config)
        new = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=settings)
        self.admin.create_topics([new])[topic].result(30)

    def write(self, *events: tuple[int, bytes | None], transaction: str = "", abort: bool = False) -> None:
        """(partition, value) each, maybe in one transaction."""
        producer = Producer(self.config | ({"transactional.id": transaction} if transaction else {}))
        if transaction:
            producer.init_transactions(30)
            producer.begin_transaction()
        for partition, value in events:
            producer.produce(self.topic, value, key=b"k", partition=partition)
        assert producer.flush(30) == 0
        if transaction:
            producer.abort_transaction(30) if abort else producer.commit_transaction(30)

    def forget(self, partition: int, before: int) -> None:
        """Let go of the records before an offset, as retention does."""
        place = TopicPartition(self.topic, partition, before)
        self.admin.delete_records([place])[place].result(30)


def test_partitions_transactions_and_tombstones(broker: Broker) -> None:
    others = Others(broker, f"o{uuid4().hex}", 3)
    others.write((0, b"a0"), (2, b"c0"), (0, b"a1"), transaction="one")
    others.write((0, b"never"), (1, b"never"), transaction="two", abort=True)
    others.write((0, None), (1, b"b0"))
    topic = open_topic(broker.url(others.topic))
    read = [topic.stream.read(others.topic, 0, partition=i) for i in range(3)]
    assert [[r.body for r in part] for part in read] == [[b"a0", b"a1", b""], [b"b0"], [b"c0"]]
    assert [{r.partition for r in part} for part in read] == [{0}, {1}, {2}]
    ends = [e.end for e in topic.stream.extent(others.topic)]
    assert ends[0] > 5, "the ends of transactions take offsets"
    assert topic.stream.read(others.topic, ends[0] - 1)[-1].body == b""
    with pytest.raises(InvalidError, match="has 3 partitions, numbered from 0; there is no 7"):
        topic.stream.read(others.topic, 0, partition=7)


def test_what_the_topic_has_let_go_of_is_passed_over(broker: Broker) -> None:
    others = Others(broker, f"o{uuid4().hex}")
    others.write(*((0, b"%d" % n) for n in range(10)))
    others.forget(0, 4)
    stream = open_topic(broker.url(others.topic)).stream
    assert stream.extent(others.topic) == [Extent(4, 10)]
    assert [r.offset for r in stream.read(others.topic, 0, limit=3)] == [4, 5, 6]
    assert stream.read(others.topic, 10) == stream.read(others.topic, 99) == []


def test_a_topic_of_others_is_a_source_whose_batches_stay_the_same(broker: Broker, tmp_path: Path) -> None:
    others, table = Others(broker, f"o{uuid4().hex}", 2), Table("taps", "", event_time="at", known_time="seen", key="id")
    url = broker.url(others.topic)

    def read(after: str | None = None, until_us: int = 100) -> list[Batch]:
        source = open_source(url, tmp_path, table, LogStream(tmp_path / "beside"), topics={url: open_topic(url)})
        return list(source.read(after=after, until_us=until_us))

    others.write((0, b'{"id": 1, "at": 1}'), (1, b'{"id": 2, "at": 2}'), (1, b"junk"), transaction="source")
    (first,) = read(until_us=10)
    assert sorted(first.rows["id"].to_pylist()) == [1, 2]
    assert min(first.rows["seen"].cast("int64").to_pylist()) > 1_700_000_000_000_000, "known from when the broker had it"
    others.write((1, b'{"id": 3, "at": 3}'))
    second = read(after=first.cursor)[0]
    assert second.rows["id"].to_pylist() == [3]
    assert [b.id for b in read()] == [first.id, second.id]
    assert EventQuarantine(LogStream(tmp_path / "beside"), "taps").counts() == {"unreadable": 1}


def test_a_follower_takes_partitions_exactly_once_over_restarts(broker: Broker, tmp_path: Path) -> None:
    others, beside = Others(broker, f"o{uuid4().hex}", 3), LogStream(tmp_path / "beside")
    rows = [
        {"id": f"x{n}", "place": "a", "lane": 1, "happened": NOW - n, "learned": NOW - n, "delay": float(n), "word": None}
        for n in range(300)
    ]
    again = [*rows, *rows[:50]]
    for start in range(0, len(again), 70):
        others.write(
            *((n % 3, event(row)) for n, row in enumerate(again[start : start + 70])), transaction=f"t{start}" if start % 140 else ""
        )

    def opened() -> Follower:
        topic = open_topic(broker.url(others.topic))
        online = SqliteOnlineStore(tmp_path / "online.db")
        return follower(online, topic.stream, beside=beside, topics=[(KEYED, topic)], batch=40)

    for _ in range(4):
        opened().turn()  # and gone
    one = opened()
    while one.turn():
        pass
    assert one.followed[0].behind == 0
    view = DEFINITIONS.views["keyed_windows"]
    (found,) = OnlineReader(SqliteOnlineStore(tmp_path / "online.db"), DEFINITIONS).read([view], [{"place": "a"}], NOW)
    assert (found["keyed_windows__count_6m"], found["keyed_windows__delay_sum_6m"]) == (300, sum(range(300)))


def test_a_broker_that_dies_is_unavailable_and_comes_back_with_everything(tmp_path: Path) -> None:
    with kafka_broker(tmp_path / "own") as own:
        stream = open_stream(own.url("p", timeout="3s"), "p")
        assert stream.append("a", [b"0", b"1"]) == 2
        assert [r.body for r in stream.read("a", 0)] == [b"0", b"1"]
        own.kill()
        for ask in (lambda: stream.append("a", [b"2"]), lambda: stream.read("a", 0), lambda: stream.extent("a")):
            with pytest.raises(UnavailableError, match=f"Kafka at kafka://{own.hosts}/p does not answer"):
                ask()
        own.start()
        eventually(lambda: stream.append("a", [b"3"]) >= 3)
        assert [r.body for r in stream.read("a", 0)][:2] == [b"0", b"1"]
        assert stream.read("a", 0)[-1].body == b"3"


def eventually(check: Callable[[], bool], within_s: float = 60.0) -> None:
    until = time.monotonic() + within_s
    while True:
        try:
            if check():
                return
        except UnavailableError:
            assert time.monotonic() < until
        time.sleep(0.2)


def test_who_logs_in_needs_the_right_password(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"kafka://{USER}@127.0.0.1:{broker.sasl_port}/p{uuid4().hex}?timeout=20s&password=env:KAFKA_PASSWORD"
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    assert open_stream(url, "p").append("a", [b"x"]) == 1
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong-one")
    with pytest.raises(UnavailableError) as refused:
        open_stream(url.replace("20s", "3s"), "p").extent("a")
    assert "wrong-one" not in str(refused.value)


def test_who_is_asked_is_known_by_the_certificate(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    if not broker.tls_port:
        pytest.skip("needs openssl")
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    url = f"kafkas://{USER}:env%3AKAFKA_PASSWORD@127.0.0.1:{broker.tls_port}/p{uuid4().hex}?timeout=20s"
    trusting = open_stream(f"{url}&ca={broker.folder / 'ca.pem'}", "p")
    assert trusting.append("a", [b"x"]) == 1
    assert [r.body for r in trusting.read("a", 0)] == [b"x"]
    with pytest.raises(UnavailableError):
        open_stream(url.replace("20s", "3s"), "p").extent("a")


def test_limits_and_names(broker: Broker) -> None:
    stream = open_stream(broker.url("", timeout="30s"), "shop~two")
    with pytest.raises(InvalidError, match="too many for one append"):
        stream.append("a", [bytes(65 << 20)])
    with pytest.raises(InvalidError, match="offsets start at 0"):
        stream.read("a", -1)
    assert stream.append("big", [bytes(9 << 20), b"x" * 100]) == 2
    assert [len(r.body) for r in stream.read("big", 0)] == [9 << 20, 100]
    assert stream.append("big", []) == 2
    with pytest.raises(InvalidError, match="names no topic"):
        open_topic(broker.url())


def test_the_example_runs_on_kafka_by_its_url(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushed to one project's stream, and read by another project as a topic of others."""
    name, other = f"e{uuid4().hex}", f"kafka://{broker.hosts}/"
    for folder in ("mine", "theirs"):
        shutil.copytree(EXAMPLE, tmp_path / folder, ignore=shutil.ignore_patterns(".tidemill", "__pycache__"))
    definitions = tmp_path / "theirs" / "definitions.py"
    definitions.write_text(definitions.read_text().replace('"push:"', f'"{other}{name}.payments"'))
    events = subprocess.run([sys.executable, str(EXAMPLE / "make_events.py"), "400"], capture_output=True, text=True, check=True).stdout

    def ask(*arguments: str, given: str = "") -> str:
        result = CliRunner().invoke(cli, list(arguments), input=given)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    found = []
    for folder, stream in (("mine", f"stack.stream={other}{name}"), ("theirs", "stream.batch=100")):
        monkeypatch.chdir(tmp_path / folder)
        if folder == "mine":
            ask("push", "-o", stream, "payments", given=events)
        (told,) = json.loads(ask("features", "-o", stream, "follow", "--once", "--json"))
        assert (told["behind"], told["taken"]) == (0, events.count("\n"))
        ask("ingest", "-o", stream)
        found.append(json.loads(ask("features", "-o", stream, "read", "sales", "--key", '{"shop": "s3"}', "--json")))
        assert "1 partition, " in ask("doctor", "-o", stream)
    assert found[0] == found[1]
    definitions.write_text(definitions.read_text().replace(broker.hosts, "127.0.0.1:1").replace('.payments"', '.payments?timeout=1s"'))
    lame = next(c for c in examine(tmp_path / "theirs") if c.name == "stream payments")
    assert (lame.state, "does not answer" in lame.text, lame.hint.split(";")[0]) == ("failed", True, "see to the server that the URL names")
