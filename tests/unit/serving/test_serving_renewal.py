"""A certificate whose files are replaced is shown by the running servers from the next connection on, and no request fails for it."""

from __future__ import annotations

import asyncio
import datetime
import http.client
import logging
import re
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import pytest
import trustme
from cryptography import x509
from granian.constants import Interfaces
from tests.support.serving_kit import FULL, Stack, body, free_port, server
from tests.unit.serving.test_serving_tls import pkcs8, tls, write
from tests.unit.serving.test_serving_workers import listening

from tidemill.adapters.grpc.messages import SERVICE, message
from tidemill.core.clock import ReplayClock, WallClock
from tidemill.core.errors import ConfigError, UnavailableError
from tidemill.core.instants import SECOND_US
from tidemill.serving import renewal as renewing
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.renewable import RenewableServer
from tidemill.serving.renewal import Renewal, _proved
from tidemill.serving.tls import Tls, trusting

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def issue(ca: trustme.CA, folder: Path, until: datetime.datetime | None = None) -> int:
    """Write another certificate, one file after the other as certbot does; answers its serial number."""
    made = ca.issue_cert("127.0.0.1", "localhost", not_after=until)
    write(made, ca, folder)
    return x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes()).serial_number


def serial(port: int, *, http2: bool = False) -> int:
    """Of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if http2:
        context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain, context.wrap_socket(plain) as spoken:
        shown = spoken.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def until(what: str, condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.05)


class Callers:
    """Threads that ask all the time; `anew`: each request on a connection of its own, else on one until the server asks to close it."""

    def __init__(self, port: int, secret: str, trusted: Path, count: int, *, anew: bool) -> None:
        self.failures: list[str] = []
        self.shown: Counter[int] = Counter()
        self.ids: list[str] = []
        self._port, self._secret, self._anew = port, secret, anew
        self._context = ssl.create_default_context(cafile=str(trusted))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self) -> None:
        connection: Any = None
        number = 0
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=30, context=self._context)
                    connection.connect()
                    shown: bytes = connection.sock.getpeercert(binary_form=True)
                    number = x509.load_der_x509_certificate(shown).serial_number
                connection.request("POST", "/v2/models/late/infer", body(FULL), {"authorization": f"Bearer {self._secret}"})
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {content[:200]!r}")
                else:
                    self.shown[number] += 1
                    self.ids.append(re.search(rb'"id":"([^"]+)"', content)[1].decode())  # type: ignore[index]
                if self._anew or answer.getheader("connection") == "close":
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                if connection is not None:
                    connection.close()
                connection = None


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_while_certificates_are_renewed_under_load(ca: trustme.CA, tmp_path: Path, workers: int) -> None:
    stack, files = Stack.of(tmp_path, live=1), tmp_path / "tls"
    secret, port = stack.tokens.make("load", "admin"), free_port()
    serials = [issue(ca, files)]
    with server(tmp_path, port, workers, tls=files) as process:
        until("all workers", lambda: listening(port) == workers)
        with (
            Callers(port, secret, files / "ca.pem", 6, anew=True) as anew,
            Callers(port, secret, files / "ca.pem", 3, anew=False) as kept,
        ):
            until("requests", lambda: len(anew.ids) > 50 and len(kept.ids) > 50)
            for _ in range(4):
                serials.append(issue(ca, files))
                renewed = workers * (len(serials) - 1)
                until("all workers", lambda: (tmp_path / "server.log").read_text().count("certificate.renewed") == renewed)  # noqa: B023
                assert {serial(port) for _ in range(6)} == {serials[-1]}
                time.sleep(2)  # so that what served the one before has ended
                goal, goal_kept = anew.shown[serials[-1]] + 60, kept.shown[serials[-1]] + 60
                until("its requests", lambda: anew.shown[serials[-1]] > goal and kept.shown[serials[-1]] > goal_kept)  # noqa: B023
        assert anew.failures + kept.failures == []
        assert set(anew.shown) == set(kept.shown) == set(serials)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert set(anew.ids + kept.ids) <= {p.id for p in SqlitePredictionLog(tmp_path / "predictions.db").read("late")}
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_every_port_shows_the_new_one_and_one_that_cannot_be_used_is_a_condition(ca: trustme.CA, tmp_path: Path) -> None:
    stack, files = Stack.of(tmp_path, live=1), tmp_path / "tls"
    secret = stack.tokens.make("me", "admin")
    first, ports = issue(ca, files), (free_port(), free_port())
    where, headers = f"https://127.0.0.1:{ports[0]}", {"authorization": f"Bearer {secret}"}
    trusts = ssl.create_default_context(cafile=str(files / "ca.pem"))

    def expires() -> float:
        text = httpx.get(f"{where}/metrics", headers=headers, verify=trusts, timeout=30).text
        return float(re.findall(r"^tidemill_serving_certificate_expires_seconds (\S+)$", text, re.MULTILINE)[0])

    def conditions() -> list[tuple[str, str]]:
        return [(c["cause"], c["reason"]) for c in httpx.get(f"{where}/v2/health", verify=trusts, timeout=30).json()["conditions"]]

    with server(tmp_path, ports[0], grpc_port=ports[1], tls=files):
        assert (serial(ports[0]), serial(ports[1], http2=True)) == (first, first)
        before = expires()
        channel = grpc.secure_channel(f"127.0.0.1:{ports[1]}", grpc.ssl_channel_credentials((files / "ca.pem").read_bytes()))
        live = channel.unary_unary(f"/{SERVICE}/ServerLive")
        live(message("ServerLiveRequest")().SerializeToString(), timeout=60)
        now = datetime.datetime.now(datetime.UTC)
        second = issue(ca, files, until=now + 9 * DAY)
        until("the new one", lambda: serial(ports[0]) == second)
        until("it, for gRPC", lambda: serial(ports[1], http2=True) == second)
        live(message("ServerLiveRequest")().SerializeToString(), timeout=60)
        channel.close()
        assert expires() != before
        assert abs(expires() - (now + 9 * DAY).timestamp()) < 2
        assert conditions() == []
        (files / "key.pem").write_bytes(pkcs8(ca.issue_cert("127.0.0.1").private_key_pem.bytes()))
        until("a condition", lambda: [cause for cause, _ in conditions()] == ["certificate"])
        assert f"{files}/key.pem is the key of another certificate" in conditions()[0][1]
        assert (
            'tidemill_degraded{service="late",cause="certificate"} 1'
            in httpx.get(f"{where}/metrics", headers=headers, verify=trusts, timeout=30).text
        )
        assert httpx.post(f"{where}/v2/models/late/infer", content=body(FULL), headers=headers, verify=trusts).status_code == 200
        assert serial(ports[0]) == second
        third = issue(ca, files)
        until("the third", lambda: serial(ports[0]) == third)
        until("no condition", lambda: conditions() == [])


def test_half_of_a_pair_is_waited_for_and_what_is_wrong_is_said_once(
    ca: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issue(ca, tmp_path)
    shown: list[bytes] = []
    said: list[str] = []

    async def take(given: Tls) -> None:
        shown.append(given.cert.read_bytes())

    async def script() -> None:
        clock = WallClock()
        renewal = Renewal(tls(tmp_path), "localhost", clock, [take], told=lambda problem, _means: said.append(problem))
        assert not await renewal.look()
        key = (tmp_path / "key.pem").read_bytes()
        issue(ca, tmp_path)
        new_key = (tmp_path / "key.pem").read_bytes()
        (tmp_path / "key.pem").write_bytes(key)  # only the certificate has come until now
        said.clear()
        assert not await renewal.look()
        assert said == [], "the key may come in a moment"
        for _ in range(3):
            assert not await renewal.look()
        assert len(said) == 3
        assert all("the key of another certificate" in text for text in said)
        assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == ["certificate.refused"]
        (tmp_path / "key.pem").unlink()
        assert not await renewal.look()
        (tmp_path / "key.pem").write_bytes(new_key)
        assert await renewal.look()
        assert (said[-1], len(shown)) == ("", 1)
        assert shown[0] == (tmp_path / "cert.pem").read_bytes()
        assert not await renewal.look()

    asyncio.run(script())


@pytest.mark.parametrize(("failures", "again_s"), [(1, 1_000.0), (3, 0.0)])
def test_a_proof_that_fails_by_chance_is_made_again(
    ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, again_s: float
) -> None:
    issue(ca, tmp_path)
    until_when, asked, taken = tls(tmp_path).check("localhost"), list[str](), list[Tls]()

    def proved(given: Tls, host: str) -> str:
        asked.append(host)
        if len(asked) <= failures or not given.key.read_bytes():
            raise ConfigError("the machine was busy")
        return until_when

    async def take(given: Tls) -> None:
        taken.append(given)

    async def script() -> list[bool]:
        renewal = Renewal(tls(tmp_path), "localhost", WallClock(), [take])
        (tmp_path / "key.pem").write_bytes(b"")
        for _ in range(3):  # it is not its first failure
            await renewal.look()
        issue(ca, tmp_path)
        asked.clear()
        return [await renewal.look() for _ in range(6)]

    monkeypatch.setattr(renewing, "_proved", proved)
    monkeypatch.setattr(renewing, "_AGAIN_S", again_s)
    found = asyncio.run(script())
    assert found == [n == failures for n in range(6)]
    assert (len(asked), len(taken)) == (failures + 1, 1)


def test_authorities_that_are_being_written_when_the_pair_is_there_are_waited_for(ca: trustme.CA, tmp_path: Path) -> None:
    issue(ca, tmp_path)
    taken: list[Tls] = []

    async def take(given: Tls) -> None:
        taken.append(given)

    async def script() -> list[bool]:
        renewal = Renewal(tls(tmp_path), "localhost", WallClock(), [take])
        (tmp_path / "key.pem").write_bytes(b"")
        found = [await renewal.look() for _ in range(2)]
        issue(ca, tmp_path)
        authorities = (tmp_path / "ca.pem").read_bytes()
        (tmp_path / "ca.pem").write_bytes(b"")
        found.append(await renewal.look())
        (tmp_path / "ca.pem").write_bytes(authorities)
        return [*found, await renewal.look()]

    assert asyncio.run(script()) == [False, False, False, True]
    assert len(taken) == 1


def test_a_pair_that_failed_twice_is_not_proved_at_each_look(ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(ca, tmp_path)
    asked = []

    def proved(given: Tls, host: str) -> str:
        asked.append(host)
        raise ConfigError("no key that it knows")

    async def script() -> list[str]:
        said: list[str] = []
        renewal = Renewal(tls(tmp_path), "localhost", WallClock(), [], told=lambda problem, _means: said.append(problem))
        issue(ca, tmp_path)
        for _ in range(5):
            assert not await renewal.look()
        return said

    monkeypatch.setattr(renewing, "_proved", proved)
    assert asyncio.run(script()) == ["no key that it knows"] * 4
    assert len(asked) == 2


def test_one_that_expires_before_another_comes_is_said(ca: trustme.CA, tmp_path: Path) -> None:
    issue(ca, tmp_path)
    said: list[str] = []
    clock = ReplayClock(WallClock().now_us())
    renewal = Renewal(tls(tmp_path), "localhost", clock, [], told=lambda problem, _means: said.append(problem))
    asyncio.run(renewal.look())
    clock.advance_to(renewal.expires_us + SECOND_US)
    asyncio.run(renewal.look())
    assert said[0] == ""
    assert "has expired at" in said[1]


def test_a_key_that_granian_cannot_use_is_refused_before_it_ends_the_server(tmp_path: Path) -> None:
    """OpenSSL takes a key on the curve P-521, Granian's library aborts the process."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    for curve, taken in ((ec.SECP256R1(), True), (ec.SECP521R1(), False)):
        key, now = ec.generate_private_key(curve), datetime.datetime.now(datetime.UTC)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
        made = made.not_valid_before(now - DAY).not_valid_after(now + DAY)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        (tmp_path / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        pair = Tls(tmp_path / "cert.pem", tmp_path / "key.pem")
        assert pair.check("localhost")
        if taken:
            assert _proved(pair, "localhost").endswith("GMT")
            continue
        with pytest.raises(ConfigError, match="cannot be used by the server"):
            _proved(pair, "localhost")
        with suppress(ConfigError):
            Renewal(pair, "localhost", WallClock(), [])


def test_connections_and_streams_of_a_console_end_politely(ca: trustme.CA, tmp_path: Path) -> None:
    """What an ASGI application has open: a stream goes on, a connection is closed behind its next answer, a silent one later."""
    first, port = issue(ca, tmp_path), free_port()
    more = asyncio.Event()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        for piece in (b"one", b"two") if scope["path"] == "/stream" else (b"all",):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if piece == b"one":
                await more.wait()
        await send({"type": "http.response.body", "body": b""})

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(tmp_path / "ca.pem"))
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return reader, writer, x509.load_der_x509_certificate(shown).serial_number

    async def ask(on: Any, path: str, end: bytes) -> bytes:
        on[1].write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        answer: bytes = await asyncio.wait_for(on[0].readuntil(end), 20)
        return answer.lower()

    async def script() -> None:
        server = RenewableServer(
            app, tls(tmp_path), address="127.0.0.1", port=port, interface=Interfaces.ASGINL, log_enabled=False, retire_s=0.5
        )
        serving = asyncio.create_task(server.serve())
        await asyncio.sleep(0.1)
        kept, silent, streaming = await connect(), await connect(), await connect()
        assert kept[2] == silent[2] == first
        assert b"connection: close" not in await ask(kept, "/", b"0\r\n\r\n")
        assert b"connection: close" not in await ask(silent, "/", b"0\r\n\r\n")
        await ask(streaming, "/stream", b"one\r\n")
        second = issue(ca, tmp_path)
        await server.take_over(tls(tmp_path))
        new = await connect()
        assert new[2] == second
        assert b"connection: close" not in await ask(new, "/", b"0\r\n\r\n")
        assert b"connection: close" in await ask(kept, "/", b"0\r\n\r\n")
        assert await asyncio.wait_for(kept[0].read(), 20) == b""
        assert await asyncio.wait_for(silent[0].read(), 20) == b"", "closed, and not reset"
        more.set()
        assert (await asyncio.wait_for(streaming[0].readuntil(b"0\r\n\r\n"), 20)).startswith(b"3\r\ntwo")
        server.stop()
        await asyncio.wait_for(serving, 20)

    asyncio.run(script())


def test_a_port_that_is_taken_is_said(ca: trustme.CA, tmp_path: Path) -> None:
    issue(ca, tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            RenewableServer(None, tls(tmp_path), address="127.0.0.1", port=port)
