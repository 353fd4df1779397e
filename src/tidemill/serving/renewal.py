"""A certificate whose files are replaced while servers run: looked at every few seconds, proved, and shown from the next connection on.

What cannot be used is not shown: the servers go on with the pair that they have, and say so. Files are replaced one after the other, so a pair
that does not belong together is looked at once more before anything is said.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from tidemill.core.clock import Clock
from tidemill.core.errors import ConfigError
from tidemill.core.instants import SECOND_US, format_instant
from tidemill.serving.tls import Tls

logger = logging.getLogger(__name__)
Takes = Callable[[Tls], Awaitable[None]]
Told = Callable[[str, str], None]
EVERY_S = 5.0
_PROOF_S, _AGAIN_S = 60, 60.0
"""How long a proof may take, and when a pair that failed twice is tried once more: it may have been the machine's fault."""


class Renewal:
    """Has servers show the certificate that stands in the files now.

    Args:
        tls: the files.
        host: where clients ask, if the certificate's name is not configured.
        clock: whether it has expired.
        takes: the servers; each is handed copies of the files that are removed afterwards.
        told: hears why what stands in the files is not shown (an empty text when it is), and what that means.
        every_s: how often the files are looked at.
    """

    def __init__(
        self,
        tls: Tls,
        host: str,
        clock: Clock,
        takes: Sequence[Takes],
        *,
        told: Told = lambda _problem, _means: None,
        every_s: float = EVERY_S,
    ) -> None:
        self._tls, self._host, self._clock, self._takes, self._told, self._every_s = tls, host, clock, takes, told, every_s
        self._shown = self._tried = b""
        self._again_at = 0.0
        self._problem = self._said = ""
        self._failures = 0
        self.expires_us = 0
        with suppress(ConfigError, OSError):  # what is wrong with it the start has said
            self._shown, self.expires_us = _digest(*_read(tls)), _until(tls.check(host))

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Exception:  # a certificate that cannot be renewed must not end the server
                logger.exception("certificate.look_failed")

    async def look(self) -> bool:
        """Look once; answers whether another certificate is shown now."""
        try:
            renewed = await self._look()
        except (ConfigError, OSError) as error:
            self._failures += 1
            if self._failures > 1:
                self._say(str(error))
            return False
        self._failures = 0
        expired = 0 < self.expires_us <= self._clock.now_us()
        self._say(f"the certificate has expired at {format_instant(self.expires_us)}, and {self._tls.cert} has no other" if expired else "")
        return renewed

    async def _look(self) -> bool:
        in_thread = asyncio.get_running_loop().run_in_executor
        cert, key = await in_thread(None, _read, self._tls)
        found = _digest(cert, key)
        if found == self._shown:
            return False
        if found == self._tried and monotonic() < self._again_at:
            raise ConfigError(self._problem)
        with TemporaryDirectory(prefix="tidemill-tls-", dir=_memory()) as folder:
            copy = replace(self._tls, cert=Path(folder) / "cert.pem", key=Path(folder) / "key.pem")
            copy.cert.write_bytes(cert)
            copy.key.write_bytes(key)
            try:
                until = _until(await in_thread(None, _proved, copy, self._host))
            except ConfigError as error:
                text = str(error).replace(str(copy.cert), str(self._tls.cert)).replace(str(copy.key), str(self._tls.key))
                self._again_at = monotonic() + _AGAIN_S if found == self._tried else 0.0
                self._tried, self._problem = found, text
                raise ConfigError(text) from error
            for take in self._takes:
                await take(copy)
        self._shown, self._tried, self.expires_us = found, b"", until
        logger.warning("certificate.renewed", extra={"cert": str(self._tls.cert), "until": format_instant(until)})
        return True

    def _say(self, problem: str) -> None:
        if problem and problem != self._said:
            logger.error("certificate.refused", extra={"reason": problem})
        self._said = problem
        self._told(problem, means(self.expires_us))


def means(expires_us: int) -> str:
    """What it means for connections that the certificate in the files is not shown."""
    return (
        f"connections go on with the certificate that was read before, good until {format_instant(expires_us)}"
        if expires_us
        else ("connections go on with the certificate that was read before")
    )


def _proved(tls: Tls, host: str) -> str:
    """Until when a certificate is good that clients take and Granian can use. Raises `ConfigError`."""
    until = tls.check(host)
    # Granian's TLS library ends the process when it cannot use a key that OpenSSL can (an unusual curve): let it be another process
    command = [sys.executable, "-m", "tidemill.serving.renewable", str(tls.cert), str(tls.key)]
    try:
        tried = subprocess.run(command, input=tls.password or "", capture_output=True, text=True, timeout=_PROOF_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"tls.cert and tls.key could not be tried within {_PROOF_S} s; is this machine very busy?") from error
    if tried.returncode:
        why = [line for line in tried.stderr.splitlines() if line.strip() and not line.startswith("note:")] or [f"code {tried.returncode}"]
        raise ConfigError(f"tls.cert and tls.key cannot be used by the server ({why[-1].strip()}); is it a kind of key that it knows?")
    return until


def _read(tls: Tls) -> tuple[bytes, bytes]:
    return tls.cert.read_bytes(), tls.key.read_bytes()


def _digest(cert: bytes, key: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(cert).digest() + hashlib.sha256(key).digest()).digest()


def _until(not_after: str) -> int:
    return int(ssl.cert_time_to_seconds(not_after)) * SECOND_US


def _memory() -> str | None:
    """Where a copy of a key is on no disk; None for where temporary files are."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - the folder in it is this process's alone
