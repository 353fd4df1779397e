"""Where a Kafka cluster is and how to talk to it: the URL, read into what librdkafka is configured with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tidemill.core import secrets
from tidemill.core.errors import ConfigError
from tidemill.core.instants import parse_duration

_OPTIONS = ("password", "mechanism", "ca", "timeout", "partitions", "replicas")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_HOSTS = re.compile(r"[^,@/\s]+(,[^,@/\s]+)*")


@dataclass(frozen=True, slots=True)
class Address:
    """A URL `kafka://[user:reference@]host:port[,host:port]/NAME?timeout=10s`, read. `shown` is the URL without user, password and options."""

    shown: str
    name: str
    timeout_s: float
    partitions: int
    replicas: int
    client: dict[str, Any] = field(repr=False)


def parse(url: str, setting: str) -> Address:
    """Read a URL.

    Args:
        url: `kafka://`, with TLS `kafkas://` (`ca=PATH` names the authority's certificate). A user logs in by SASL (`mechanism=`, PLAIN by
            default), the password is a reference in its place or as `password=env:NAME`. `timeout` is how long an answer may take;
            `partitions` and `replicas` are those of topics that have to be made.
        setting: named in errors.

    Raises:
        ConfigError: it cannot be read; names the setting and never shows a password.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(given) - set(_OPTIONS)):
        raise ConfigError(f"{setting}: a Kafka URL has no {', '.join(unknown)}; it may have {', '.join(_OPTIONS)}")
    login, _, hosts = parts.netloc.rpartition("@")
    name = unquote(parts.path).strip("/")
    shown = f"{parts.scheme}://{hosts}/{name}"
    if not _HOSTS.fullmatch(hosts) or (name and not _NAME.fullmatch(name)):
        raise ConfigError(
            f"{setting}: {shown} cannot be read; write kafka://host:port/topic, with letters, digits, '.', '_' and '-' in the topic"
        )
    servers = ",".join(host if re.search(r":\d+$", host) else f"{host}:9092" for host in hosts.split(","))
    try:
        timeout_s = parse_duration(given.get("timeout", "10s")) / 1_000_000
        partitions, replicas = int(given.get("partitions", 1)), int(given.get("replicas", -1))
    except ValueError as error:
        raise ConfigError(f"{setting}: {shown} cannot be read ({error}); write for example ?timeout=10s&partitions=4") from error
    if partitions < 1 or replicas == 0 or replicas < -1:
        raise ConfigError(f"{setting}: a topic has at least one partition and one replica")
    return Address(
        shown, name, timeout_s, partitions, replicas, {"bootstrap.servers": servers, **_security(parts.scheme, login, given, setting)}
    )


def _security(scheme: str, login: str, given: dict[str, str], setting: str) -> dict[str, Any]:
    user, _, reference = login.partition(":")
    reference, tls = given.get("password") or unquote(reference), scheme == "kafkas"
    if given.get("ca") and not tls:
        raise ConfigError(f"{setting}: ca= is for TLS; write kafkas:// for it")
    made: dict[str, Any] = {"security.protocol": ("SASL_" if user else "") + ("SSL" if tls else "PLAINTEXT")}
    if given.get("ca"):
        made["ssl.ca.location"] = given["ca"]
    if not user:
        if reference or given.get("mechanism"):
            raise ConfigError(f"{setting}: a password needs a user: kafka://USER@host:port/topic?password=env:NAME")
        return made
    mechanism = given.get("mechanism", "PLAIN").upper()
    if mechanism not in _MECHANISMS:
        raise ConfigError(f"{setting}: mechanism {mechanism} is none of {', '.join(_MECHANISMS)}")
    password = secrets.resolve(reference, setting) if reference else ""
    return made | {"sasl.mechanism": mechanism, "sasl.username": unquote(user), "sasl.password": password}
