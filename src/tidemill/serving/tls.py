"""Certificates of the servers: read and proved before anything listens, so that what is wrong is said at start and not by each client.

The proof is a handshake in memory, between the certificate's server and a client that trusts it: OpenSSL itself says whether key and certificate
belong together, whether it is the time of the certificate, and whether it is for the name that clients will ask for.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.core.errors import ConfigError

_EXPIRED, _NOT_YET, _NO_CHAIN, _WRONG_NAME = 10, 9, frozenset({2, 18, 19, 20, 21}), frozenset({62, 64})
_PKCS8 = re.compile(rb"-----BEGIN (ENCRYPTED )?PRIVATE KEY-----")
_ANY_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


@dataclass(frozen=True, slots=True)
class Tls:
    """What a server shows its clients, and what clients within Tidemill trust.

    Attributes:
        cert: PEM file: the server's certificate, then those between it and its authority.
        key: PEM file (PKCS #8): its private key.
        password: of an encrypted key.
        ca: PEM file of the authorities that clients within Tidemill trust; None for those of the system.
        name: the host name or address that they ask for; empty for where the server listens.
    """

    cert: Path
    key: Path
    password: str | None = None
    ca: Path | None = None
    name: str = ""

    def context(self) -> ssl.SSLContext:
        """The server's side. Raises `ConfigError`."""
        for setting, path in (("tls.cert", self.cert), ("tls.key", self.key)):
            _readable(setting, path)
        if b"-----BEGIN CERTIFICATE-----" not in self.cert.read_bytes():
            raise ConfigError(f"tls.cert: {self.cert} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
        self._check_key()
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        self.put_into(made)
        return made

    def put_into(self, made: ssl.SSLContext) -> None:
        """Have a server's side show this certificate to each connection from now on. Raises `ConfigError`."""
        try:
            made.load_cert_chain(self.cert, self.key, lambda: self.password or "")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    f"tls.key: {self.key} is the key of another certificate than {self.cert}; name the two that belong together"
                ) from error
            raise ConfigError(
                f"tls.cert and tls.key cannot be used ({error.reason or error}); is the password right, and are both files whole?"
            ) from error

    def _check_key(self) -> None:
        key = self.key.read_bytes()
        found = _PKCS8.search(key)
        if found is None:
            hint = f"; openssl pkcs8 -topk8 -nodes -in {self.key.name} writes it as PKCS #8" if _ANY_KEY.search(key) else ""
            raise ConfigError(f"tls.key: {self.key} has no private key in PEM form (-----BEGIN PRIVATE KEY-----){hint}")
        if found[1] and not self.password:
            raise ConfigError(f"tls.key: {self.key} is encrypted; set tls.password to env:NAME or file:PATH, where its password is")

    def trusting(self) -> ssl.SSLContext:
        """A client's side, for servers of this project. Raises `ConfigError`."""
        return trusting(self.ca)

    def itself(self) -> ssl.SSLContext:
        """A client's side that trusts this certificate alone, whatever it is for: for looking after the server on its own machine."""
        made = ssl.create_default_context(cadata=self.cert.read_text("latin-1"))
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate is its own authority here
        made.check_hostname = False
        return made

    def granian(self) -> dict[str, Any]:
        """The same for Granian's server."""
        from granian.constants import SSLProtocols

        oldest = SSLProtocols.tls12
        return {"ssl_cert": self.cert, "ssl_key": self.key, "ssl_key_password": self.password, "ssl_protocol_min": oldest}

    def check(self, host: str) -> str:
        """Prove certificate and key, and that clients within Tidemill will take them; answers until when. Raises `ConfigError`.

        Args:
            host: where clients ask, if `name` does not say.
        """
        server, client, name = self.context(), self.itself(), self.name or host
        client.check_hostname = True
        told = _handshake(server, client, name, f"tls.cert: {self.cert}")
        if self.ca is not None:
            _handshake(server, self.trusting(), name, f"tls.ca: {self.ca} and tls.cert: {self.cert}")
        return str(told.get("notAfter", ""))


def trusting(ca: Path | None) -> ssl.SSLContext:
    """A client's side that trusts the authorities in a PEM file, or those of the system. Raises `ConfigError`."""
    if ca is None:
        return ssl.create_default_context()
    _readable("tls.ca", ca)
    try:
        return ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError as error:
        raise ConfigError(f"tls.ca: {ca} has no certificate in PEM form ({error.reason or error})") from error


def _readable(setting: str, path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise ConfigError(
            f"{setting}: cannot read {path} ({error.strerror}); name a PEM file, a path from the project's folder on"
        ) from error


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str, where: str) -> dict[str, Any]:
    """The certificate as a client sees it after a whole handshake."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks, answers = client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)
    done: set[Any] = set()
    for _ in range(10):
        for side in {asks, answers} - done:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                raise ConfigError(f"{where}: {_reason(error, name)}") from error
            except ssl.SSLError as error:
                raise ConfigError(f"{where}: no connection can be made ({error.reason or error})") from error
        if len(done) == 2:
            break
    return asks.getpeercert() or {}


def _reason(error: ssl.SSLCertVerificationError, name: str) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "the certificate, or one of its authorities, has expired; renew it, then start again"
    if code == _NOT_YET:
        return "the certificate is not valid yet; is this machine's clock right?"
    if code in _WRONG_NAME:
        return f"the certificate is not for {name!r}; set tls.name to a name that it is for"
    if code in _NO_CHAIN:
        return "the authority did not sign the certificate, or certificates between the two are missing from tls.cert"
    return f"{error.verify_message}"
