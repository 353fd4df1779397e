"""Servers with a certificate: what is wrong with it is said at start, and what is right with it is spoken by every port."""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from tests.support.serving_kit import FULL, LATE, LOOKUP, Stack, body, free_port, server

from tidemill.adapters.grpc.messages import SERVICE, message
from tidemill.cli.client import infer
from tidemill.console import once
from tidemill.core.clock import WallClock
from tidemill.core.errors import ConfigError, RefusedError
from tidemill.platform.config import load_config
from tidemill.platform.doctor import _tls
from tidemill.platform.root import Platform
from tidemill.platform.tls import address, tls_of
from tidemill.serving import Tokens
from tidemill.serving.tls import Tls, trusting

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cert.pem and key.pem for this machine, and ca.pem."""
    return write(ca.issue_cert("127.0.0.1", "localhost"), ca, tmp_path_factory.mktemp("tls"))


def write(cert: trustme.LeafCert, ca: trustme.CA, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(b"".join(part.bytes() for part in cert.cert_chain_pems))
    (folder / "key.pem").write_bytes(pkcs8(cert.private_key_pem.bytes()))
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    return folder


def pkcs8(pem: bytes, password: bytes | None = None) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    how = NoEncryption() if password is None else BestAvailableEncryption(password)
    return load_pem_private_key(pem, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def tls(folder: Path, name: str = "") -> Tls:
    return Tls(folder / "cert.pem", folder / "key.pem", ca=folder / "ca.pem", name=name)


def test_what_is_right_is_proved_with_the_day_it_ends(files: Path) -> None:
    assert tls(files).check("127.0.0.1").endswith("GMT")
    assert tls(files, "localhost").check("0.0.0.0").endswith("GMT")
    assert replace(tls(files), ca=None).check("localhost").endswith("GMT")


def expired(ca: trustme.CA, into: Path) -> Tls:
    now = datetime.datetime.now(datetime.UTC)
    return tls(write(ca.issue_cert("localhost", not_before=now - 2 * DAY, not_after=now - DAY), ca, into))


def early(ca: trustme.CA, into: Path) -> Tls:
    now = datetime.datetime.now(datetime.UTC)
    return tls(write(ca.issue_cert("localhost", not_before=now + DAY, not_after=now + 2 * DAY), ca, into))


def other_name(ca: trustme.CA, into: Path) -> Tls:
    return tls(write(ca.issue_cert("models.example.com"), ca, into))


def other_ca(ca: trustme.CA, into: Path) -> Tls:
    return tls(write(ca.issue_cert("localhost"), trustme.CA(), into))


def other_key(ca: trustme.CA, into: Path) -> Tls:
    made = tls(write(ca.issue_cert("localhost"), ca, into))
    made.key.write_bytes(pkcs8(ca.issue_cert("localhost").private_key_pem.bytes()))
    return made


def encrypted(ca: trustme.CA, into: Path) -> Tls:
    made = tls(write(ca.issue_cert("localhost"), ca, into))
    made.key.write_bytes(pkcs8(made.key.read_bytes(), b"tide"))
    return made


def wrong_password(ca: trustme.CA, into: Path) -> Tls:
    return replace(encrypted(ca, into), password="mill")


def lacking(ca: trustme.CA, into: Path) -> Tls:
    made = tls(write(ca.issue_cert("localhost"), ca, into))
    made.cert.unlink()
    return made


def no_key(ca: trustme.CA, into: Path) -> Tls:
    made = tls(write(ca.issue_cert("localhost"), ca, into))
    return replace(made, key=made.cert)


def no_cert(ca: trustme.CA, into: Path) -> Tls:
    made = tls(write(ca.issue_cert("localhost"), ca, into))
    return replace(made, cert=made.key)


def older_form(ca: trustme.CA, into: Path) -> Tls:
    made = tls(write(ca.issue_cert("localhost"), ca, into))
    made.key.write_text(made.key.read_text().replace(" PRIVATE KEY", " RSA PRIVATE KEY"))
    return made


def no_ca(ca: trustme.CA, into: Path) -> Tls:
    made = tls(write(ca.issue_cert("localhost"), ca, into))
    return replace(made, ca=made.key)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (expired, "has expired; renew it"),
        (early, "not valid yet"),
        (other_name, "not for 'localhost'; set tls.name"),
        (other_ca, "the authority did not sign"),
        (other_key, "the key of another certificate"),
        (encrypted, "is encrypted; set tls.password"),
        (wrong_password, "is the password right"),
        (lacking, "tls.cert: cannot read"),
        (no_key, "has no private key in PEM form"),
        (no_cert, "has no certificate in PEM form"),
        (older_form, "openssl pkcs8 -topk8"),
        (no_ca, "tls.ca: .* has no certificate"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    ca: trustme.CA, tmp_path: Path, make: Callable[[trustme.CA, Path], Tls], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(ca, tmp_path).check("localhost")


def test_an_encrypted_key_with_its_password_will_do(ca: trustme.CA, tmp_path: Path) -> None:
    assert replace(encrypted(ca, tmp_path), password="tide").check("localhost")


def test_the_configuration_names_files_from_the_project_on(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_PASSWORD", "")
    (tmp_path / "tls").symlink_to(files)
    given = ["tls.cert=tls/cert.pem", "tls.key=tls/key.pem", "tls.ca=tls/ca.pem", "tls.password='env:KEY_PASSWORD'"]
    config = load_config(tmp_path, [*given, "tls.name=localhost"])
    made = tls_of(config, tmp_path, check="0.0.0.0")
    assert made is not None
    assert made.cert == (files / "cert.pem").resolve()
    assert address(config, "0.0.0.0", 8401) == "https://localhost:8401"
    assert [(c.name, c.state) for c in _tls(config, tmp_path)] == [("tls", "ok")]
    wrong = load_config(tmp_path, [*given, "tls.name=example.com"])
    [check] = _tls(wrong, tmp_path)
    assert (check.state, "set tls.name" in check.text) == ("failed", True)
    plain = load_config(tmp_path)
    assert tls_of(plain, tmp_path, check="localhost") is None
    assert list(_tls(plain, tmp_path)) == []
    assert address(plain, "::1", 8401) == "http://[::1]:8401"
    with pytest.raises(ConfigError, match="belong together"):
        load_config(tmp_path, ["tls.cert=cert.pem"])
    with pytest.raises(ConfigError, match="as a reference"):
        tls_of(load_config(tmp_path, [*given[:3], "tls.password=secret"]), tmp_path)


def healthy(folder: Path, port: int) -> int:
    """What an image's health check makes of a server."""
    command = [sys.executable, "-m", "tidemill.cli.image", str(folder), "health", "--port", str(port)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode


def test_every_port_speaks_tls_and_nothing_else(files: Path, tmp_path: Path) -> None:
    stack = Stack.of(tmp_path, live=1)
    secret = Tokens(stack.ledger, WallClock()).make("me", "admin")
    ports = free_port(), free_port()
    trusts = trusting(files / "ca.pem")
    with server(tmp_path, ports[0], grpc_port=ports[1], tls=files):
        where = f"https://127.0.0.1:{ports[0]}"
        answer = httpx.post(
            f"{where}/v2/models/late/infer", content=body(FULL), headers={"authorization": f"Bearer {secret}"}, verify=trusts
        )
        assert answer.status_code == 200
        [told] = infer(where, LATE, [LOOKUP], secret, trusts=trusts)
        assert told["version"] == "1"
        with pytest.raises(RefusedError, match=r"is not trusted .* set tls.ca"):
            infer(where, LATE, [LOOKUP], secret)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{ports[0]}/v2/health/live")
        assert healthy(tmp_path, ports[0]) == 0
        assert healthy(tmp_path, free_port()) != 0
        call = f"/{SERVICE}/ServerLive"
        with grpc.secure_channel(f"127.0.0.1:{ports[1]}", grpc.ssl_channel_credentials((files / "ca.pem").read_bytes())) as channel:
            live = channel.unary_unary(call)(message("ServerLiveRequest")().SerializeToString(), timeout=60)
            assert message("ServerLiveResponse").FromString(live).live
        with (
            grpc.secure_channel(f"127.0.0.1:{ports[1]}", grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())) as channel,
            pytest.raises(grpc.RpcError),
        ):
            channel.unary_unary(call)(b"", timeout=5)


@pytest.mark.slow
def test_console_and_commands_of_a_project_too(files: Path, tmp_path: Path) -> None:
    project, port = tmp_path / "kitchen", free_port()
    subprocess.run([sys.executable, "-m", "tidemill.cli", "init", str(project)], check=True, capture_output=True, timeout=200)
    given = ["-o", f"tls.cert={files}/cert.pem", "-o", f"tls.key={files}/key.pem", "-o", f"api.port={port}"]
    command = [sys.executable, "-m", "tidemill.cli.processes", "api", "--supervised", "--project", str(project)]
    wrong = subprocess.run(
        [part for part in (*command, *given, "-o", "tls.name=elsewhere") if part != "--supervised"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (wrong.returncode, "set tls.name to a name that it is for" in wrong.stderr) == (2, True)
    with closing(Platform.open(project)) as platform:
        assert platform.ledger.events_after(0) == [], "it is there, as it is under `tidemill up`"
    process = subprocess.Popen([*command, *given], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        client = httpx.Client(base_url=f"https://localhost:{port}", verify=trusting(files / "ca.pem"))
        for _ in range(1200):
            assert process.poll() is None, process.communicate()
            with suppress(httpx.TransportError):
                if client.get("/healthz").status_code == 200:
                    break
            time.sleep(0.1)
        with closing(Platform.open(project)) as platform:
            path = once.issue(platform.ledger, platform.clock, Tokens(platform.ledger, platform.clock).make("me", "admin"))
        login = client.get(path)
        assert login.status_code == 303
        assert "Secure" in login.headers["set-cookie"]
    finally:
        process.kill()
        process.communicate()
