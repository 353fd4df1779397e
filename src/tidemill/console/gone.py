"""The page that stands in the place of each other one while the ledger does not answer: what that means, what goes on, what to do.

It asks for itself again every few seconds, so the page that was wanted comes by itself once the ledger is back. Names of files and what the
model server does are for those alone whose token is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tidemill.api.access import access_of
from tidemill.api.errors import GonePage, split
from tidemill.console.render import page, platform_of
from tidemill.core.errors import LedgerGoneError, TidemillError

AGAIN_S = 5


@dataclass(frozen=True, slots=True)
class Models:
    """What the model server said of itself when it was asked. `problem`: why it said nothing; `health`: its `/v2/health`."""

    address: str
    problem: str = ""
    health: Mapping[str, Any] = field(default_factory=dict)

    def services(self) -> list[dict[str, Any]]:
        """One row a service: which versions answer, and what it has to do without besides the ledger."""
        missing = [c for c in self.health.get("conditions", ()) if c["cause"] != "ledger"]
        return [
            {
                "name": name,
                "answers": [f"v{d['version']} {d['role']}" for d in said.get("serves", ()) if d["role"] in ("live", "canary")],
                "without": [c for c in missing if c["service"] == name],
            }
            for name, said in self.health.get("services", {}).items()
        ]

    @property
    def logs(self) -> bool:
        """Whether answers are logged durably."""
        return bool(self.health.get("logging", {}).get("state") == "ok")

    @property
    def noticed(self) -> bool:
        """Whether the model server has noticed, too, that the ledger is gone."""
        return any(c["cause"] == "ledger" for c in self.health.get("conditions", ()))


def page_of(models: Callable[[], Models] | None) -> GonePage:
    """The page, for a console that asks the model server by `models`."""

    def draw(request: Request, error: LedgerGoneError) -> Response:
        known = _known(request)
        absence = request.app.state.gone.state(error)
        reason, hint = split(error)
        answer = page(
            request,
            "gone.html",
            "",
            code=503,
            now_us=platform_of(request).clock.now_us(),
            since_us=absence.since_us,
            known=known,
            reason=reason,
            hint=hint,
            models=models() if known and models is not None else None,
            again_s=AGAIN_S if request.method in ("GET", "HEAD") else 0,
        )
        answer.headers["Retry-After"] = str(AGAIN_S)
        return answer

    return draw


def _known(request: Request) -> bool:
    try:
        access_of(request)
    except TidemillError:
        return False
    return True
