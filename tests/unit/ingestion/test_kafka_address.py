"""Kafka URLs: what they mean, and that nothing in them is passed over."""

import pytest

from tidemill.adapters.kafka.address import parse
from tidemill.core.errors import ConfigError


def test_hosts_name_and_security() -> None:
    found = parse("kafka://a:1,b/shop.x?timeout=2s&partitions=3&replicas=2", "stack.stream")
    assert (found.shown, found.name, found.timeout_s, found.partitions, found.replicas) == ("kafka://a:1,b/shop.x", "shop.x", 2.0, 3, 2)
    assert found.client == {"bootstrap.servers": "a:1,b:9092", "security.protocol": "PLAINTEXT"}
    assert parse("kafkas://a/?ca=/etc/ca.pem", "x").client == {
        "bootstrap.servers": "a:9092", "security.protocol": "SSL", "ssl.ca.location": "/etc/ca.pem"
    }  # fmt: skip


def test_a_password_is_a_reference_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for url in ("kafka://me@a/t?password=env:SECRET&mechanism=scram-sha-256", "kafka://me:env%3ASECRET@a/t?mechanism=SCRAM-SHA-256"):
        found = parse(url, "x")
        assert (found.client["sasl.username"], found.client["sasl.password"]) == ("me", "hunter2")
        assert (found.client["sasl.mechanism"], found.client["security.protocol"]) == ("SCRAM-SHA-256", "SASL_PLAINTEXT")
        assert "hunter2" not in repr(found) + found.shown
        assert "me" not in found.shown
    with pytest.raises(ConfigError, match="never in clear") as refused:
        parse("kafka://me:hunter2@a/t", "x")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("kafka://a/t?tmeout=1s", "has no tmeout"),
        ("kafka:///t", "write kafka://host:port/topic"),
        ("kafka://a/t t", "write kafka://host:port/topic"),
        ("kafka://a/t?timeout=soon", "not a duration"),
        ("kafka://a/t?partitions=0", "at least one partition"),
        ("kafka://a/t?replicas=0", "at least one partition"),
        ("kafka://a/t?ca=/x", "write kafkas://"),
        ("kafka://a/t?password=env:X", "needs a user"),
        ("kafka://me@a/t?mechanism=GSSAPI", "none of PLAIN"),
    ],
)
def test_what_cannot_be_kept_is_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(url, "stack.stream")
