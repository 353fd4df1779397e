"""What the model server of a project says of itself, for pages that cannot read it in the ledger."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from time import monotonic
from typing import TYPE_CHECKING

from tidemill.console.gone import Models
from tidemill.core.errors import ConfigError
from tidemill.core.machine import near

if TYPE_CHECKING:
    from tidemill.platform.root import Platform

_PATIENCE_S, _FRESH_S = 1.5, 1.0


class ModelsAsked:
    """Asks the model server where it listens, at most once a second, however many pages want to know. Thread-safe."""

    def __init__(self, platform: Platform, host: str, port: int) -> None:
        self._platform, self._host, self._port = platform, host, port
        self._lock = threading.Lock()
        self._said: tuple[float, Models] | None = None

    def __call__(self) -> Models:
        """What it says, or why it says nothing."""
        with self._lock:
            if self._said is None or monotonic() - self._said[0] > _FRESH_S:
                said = self._ask()
                self._said = (monotonic(), said)
            return self._said[1]

    def _ask(self) -> Models:
        from tidemill.platform.tls import address, tls_of

        config = self._platform.config
        host, port = self._host, self._port
        shown = address(config, host, port)
        try:
            tls = tls_of(config, self._platform.project)
            url = f"http{'s' if tls else ''}://{near(host)}:{port}/v2/health"
            context = tls.itself() if tls else None
            with urllib.request.urlopen(url, timeout=_PATIENCE_S, context=context) as answer:  # noqa: S310 - http or https
                return Models(shown, health=json.load(answer))
        except (OSError, HTTPException, ValueError, ConfigError) as error:
            return Models(shown, problem=str(getattr(error, "reason", error)))
