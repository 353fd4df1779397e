"""A stream on a Kafka cluster, and a topic of one as the source of a table.

Consumers are assigned partitions by hand and commit nothing: how far events have been taken is kept with what they made. Records of
aborted transactions are never seen (`isolation.level=read_committed`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from tidemill.adapters.kafka.address import Address, parse
from tidemill.core.errors import InvalidError, UnavailableError
from tidemill.ingestion.ports import Extent, Record, Topic

_LARGEST = 64 << 20
"""Bytes of one append: it is one batch of Kafka's, which is written whole or not at all."""
_LINGER_MS = 30_000
"""So long a producer may gather a batch; `flush` sends it at once."""
_TOGETHER = 10_000
_PREFETCH_KB = 32_768
_LEGAL = re.compile(r"[^A-Za-z0-9._-]")
_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_MADE = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(_LARGEST), "retention.ms": "-1", "retention.bytes": "-1"}
"""Of topics that are made here: stamped by the broker, as large as an append may be, and kept."""


@dataclass(slots=True)
class _Reading:
    """The consumer of one partition. `next` is the offset that it gives next; `end` is one behind which nothing came when it was last told."""

    consumer: Any
    next: int
    end: int = -1
    lock: threading.Lock = field(default_factory=threading.Lock)


class KafkaStream:
    """A `Stream` on a Kafka cluster (2.4 or newer). Topics are called `PREFIX.TOPIC`, and made when something is first appended.

    An append goes to partition 0 as one batch. Another's topic may have any number of partitions, is never made, and keeps what its
    settings say: what they have let go of is not read.
    """

    def __init__(self, address: Address, prefix: str = "") -> None:
        self._address, self._prefix = address, prefix
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._opened: dict[tuple[str, int], _Reading] = {}
        self._known: set[str] = set()
        self._producer_made: Any = None
        self._admin_made: Any = None

    def append(self, topic: str, bodies: Sequence[bytes]) -> int:
        """Add records in one batch, acknowledged by all replicas in sync."""
        name = self._name(topic)
        if not bodies:
            return self.extent(topic)[0].end
        size = sum(len(body) + 32 for body in bodies)
        if size > _LARGEST:
            raise InvalidError(f"{size} bytes are too many for one append to {topic!r}; the limit is {_LARGEST}")
        self._make(name)
        told: list[tuple[Any, Any]] = []
        with self._sending:
            producer = self._producer()
            try:
                for body in bodies:
                    producer.produce(name, body, partition=0, on_delivery=lambda error, message: told.append((error, message)))
                left = producer.flush(self._address.timeout_s)
            except (KafkaException, BufferError) as error:
                self._forget_producer()
                raise self._unavailable(error) from error
            failed = next((error for error, _ in told if error is not None), None)
            if left or failed is not None:
                self._forget_producer()
                if failed is not None and failed.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise InvalidError(f"topic {name!r} takes less than {size} bytes at once; raise its max.message.bytes, or append less")
                raise self._unavailable(failed or "no acknowledgement in time")
        return max(int(message.offset()) for _, message in told) + 1

    def read(self, topic: str, offset: int, *, limit: int = 10_000, partition: int = 0) -> list[Record]:
        """What there is up to now, from the offset on."""
        if offset < 0:
            raise InvalidError(f"offsets start at 0, not {offset}")
        name = self._name(topic)
        extent = self._extents(name, [partition])[0]
        if extent.end <= offset:
            return []
        with self._lock:
            reading = self._opened.setdefault((name, partition), _Reading(None, -1))
        with reading.lock:
            try:
                return self._take(name, partition, reading, max(offset, extent.first), extent.end, limit)
            except KafkaException as error:
                self._close(reading)
                raise self._unavailable(error) from error

    def _take(self, name: str, partition: int, reading: _Reading, offset: int, end: int, limit: int) -> list[Record]:
        if reading.consumer is None:
            reading.consumer = self._consumer()
        if reading.next != offset:
            reading.consumer.assign([TopicPartition(name, partition, offset)])
            reading.next, reading.end = offset, -1
        found: list[Record] = []
        until = monotonic() + self._address.timeout_s
        while len(found) < limit and reading.next < end and reading.end < end:
            messages = [m for m in (reading.consumer.poll(0.2),) if m is not None]  # the first that comes, and what is there besides
            messages += reading.consumer.consume(min(_TOGETHER, limit - len(found) - 1), 0) if limit - len(found) > 1 and messages else []
            for message in messages:
                error = message.error()
                if error is None:
                    found.append(Record(message.offset(), message.value() or b"", _micros(message), partition))
                    reading.next = message.offset() + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    reading.end = message.offset()
                else:
                    raise KafkaException(error)
            if messages:
                until = monotonic() + self._address.timeout_s
            elif monotonic() > until:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no records of {name} up to {end}"))
        return found

    def extent(self, topic: str) -> list[Extent]:
        """First and last offsets of every partition, as the brokers have them now."""
        name = self._name(topic)
        return self._extents(name, self._partitions(name)) or [Extent(0, 0)]

    def _partitions(self, name: str) -> list[int]:
        """The partitions of a topic, none of one that is not there."""
        try:
            known = self._admin().list_topics(name, timeout=self._address.timeout_s).topics.get(name)
        except KafkaException as error:
            raise self._unavailable(error) from error
        if known is None or known.error is None:
            return [] if known is None else sorted(known.partitions)
        if known.error.code() in _MISSING:
            return []
        raise self._unavailable(known.error)

    def _extents(self, name: str, partitions: Sequence[int]) -> list[Extent]:
        if not partitions:
            return []
        until = monotonic() + self._address.timeout_s
        while True:
            try:
                first, end = (self._offsets(name, partitions, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
            except (KafkaException, TimeoutError) as error:
                if not isinstance(error, KafkaException) or error.args[0].code() not in (*_MISSING, KafkaError._NOENT):
                    raise self._unavailable(error) from error
                known = self._partitions(name)
                if not known:
                    return [Extent(0, 0) for _ in partitions]
                if wrong := sorted(set(partitions) - set(known)):
                    raise InvalidError(f"topic {name!r} has {len(known)} partitions, numbered from 0; there is no {wrong[0]}") from error
                if monotonic() > until:
                    raise self._unavailable(error) from error
                sleep(0.1)  # a leader is being elected
            else:
                return [Extent(a, b) for a, b in zip(first, end, strict=True)]

    def _offsets(self, name: str, partitions: Sequence[int], spec: Any) -> list[int]:
        wanted, patience = [TopicPartition(name, partition) for partition in partitions], self._address.timeout_s
        level = IsolationLevel.READ_COMMITTED
        asked = self._admin().list_offsets(dict.fromkeys(wanted, spec), isolation_level=level, request_timeout=patience)
        return [int(asked[one].result(patience).offset) for one in wanted]

    def _make(self, name: str) -> None:
        """Make a topic of ours unless it is there."""
        if name in self._known:
            return
        new = NewTopic(name, num_partitions=self._address.partitions, replication_factor=self._address.replicas, config=_MADE)
        try:
            self._admin().create_topics([new], request_timeout=self._address.timeout_s)[name].result(self._address.timeout_s)
        except (KafkaException, TimeoutError) as error:
            if not isinstance(error, KafkaException) or error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise self._unavailable(error) from error
        self._known.add(name)

    def _name(self, topic: str) -> str:
        return _LEGAL.sub("-", f"{self._prefix}.{topic}" if self._prefix else topic)

    def _admin(self) -> Any:
        with self._lock:
            if self._admin_made is None:
                self._admin_made = AdminClient({**self._client(), "socket.timeout.ms": int(self._address.timeout_s * 1000)})
            return self._admin_made

    def _producer(self) -> Any:
        if self._producer_made is None:
            whole = {"linger.ms": _LINGER_MS, "batch.num.messages": 1_000_000, "batch.size": _LARGEST, "message.max.bytes": _LARGEST}
            whole |= {"queue.buffering.max.messages": 2_000_000, "message.timeout.ms": _LINGER_MS + int(self._address.timeout_s * 1000)}
            self._producer_made = Producer({**self._client(), **whole, "acks": "all", "enable.idempotence": True})
        return self._producer_made

    def _forget_producer(self) -> None:
        """After a failure: what is queued is given up, so that it does not come after it was said not to have come."""
        if self._producer_made is not None:
            self._producer_made.purge()
            self._producer_made.flush(0)
            self._producer_made = None

    def _consumer(self) -> Any:
        return Consumer(
            {
                **self._client(),
                "group.id": "tidemill",  # asked for, and not used: nothing is committed, nobody is rebalanced
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
                "fetch.queue.backoff.ms": 10,
                "queued.max.messages.kbytes": _PREFETCH_KB,
            }
        )

    def _client(self) -> dict[str, Any]:
        return {**self._address.client, "client.id": "tidemill", "log_level": 0, "error_cb": lambda _error: None}

    def _unavailable(self, error: object) -> UnavailableError:
        text = error.args[0].str() if isinstance(error, KafkaException) else str(error) or type(error).__name__
        return UnavailableError(f"Kafka at {self._address.shown} does not answer as it should: {text}; see to it, then try again")

    def _close(self, reading: _Reading) -> None:
        if reading.consumer is not None:
            reading.consumer.close()
        reading.consumer, reading.next, reading.end = None, -1, -1

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for reading in self._opened.values():
                self._close(reading)
            self._opened.clear()
            self._producer_made = self._admin_made = None


def _micros(message: Any) -> int:
    """When the broker took a record, or its producer made it, as the topic says."""
    kind, ms = message.timestamp()
    return int(ms) * 1000 if kind else 0


def open_stream(url: str, project: str) -> KafkaStream:
    """The stream that `stack.stream: kafka://host:port/PREFIX` names; the prefix is the project's name unless the URL has one."""
    address = parse(url, "stack.stream")
    return KafkaStream(address, address.name or project)


def open_topic(url: str) -> Topic:
    """The topic that the source `kafka://host:port/TOPIC` of a table names. Raises `ConfigError` without a topic."""
    address = parse(url, "source")
    if not address.name:
        raise InvalidError(f"the source {address.shown} names no topic; write kafka://host:port/topic")
    return Topic(KafkaStream(address), address.name, address.shown)
