"""Routes read from the ledger's deployments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import sqlalchemy as sa

from tidemill.core.errors import UnavailableError
from tidemill.ledger.schema import deployment, model_version
from tidemill.ledger.store import Ledger
from tidemill.serving.ports import Deployment, Part
from tidemill.serving.sticky import share_of

_ORDER: dict[str, int] = {"live": 0, "canary": 1, "shadow": 2, "warm": 3}
_D, _V = deployment.c, model_version.c
_QUERY = (
    sa.select(_D.id, _D.service, _D.model, _D.version, _V.digest, _D.role, _D.weight, _D.since_us)
    .join(model_version, (_V.name == _D.model) & (_V.version == _D.version))
    .where(_D.service == sa.bindparam("service"), _D.role.in_(list(_ORDER)), _D.ended_us.is_(None))
)
"""Made once: every server asks twice a second, and making it took longer than asking."""


class LedgerRouter:
    """A `Router` over the ledger's `deployment` table, one SELECT a question.

    An id's place in [0, 1) is a hash of the service and the id. Canaries take the low end, so a canary that grows from 10 % to
    50 % keeps the requests it had; what no canary takes is live's.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def deployments(self, service: str) -> list[Deployment]:
        with self._ledger.read() as db:
            rows = db.execute(_QUERY, {"service": service}).all()
        found = [Deployment(r[0], r[1], r[2], int(r[3]), r[4], cast("Part", r[5]), float(r[6]), int(r[7])) for r in rows]
        return sorted(found, key=lambda d: (_ORDER[d.role], -d.since_us, -d.version))

    def choose(self, deployments: Sequence[Deployment], key: str) -> Deployment:
        live: Deployment | None = None
        canaries: list[Deployment] = []
        for candidate in deployments:
            if candidate.role == "canary":
                canaries.append(candidate)
            elif candidate.role == "live" and live is None:
                live = candidate
        if live is None:
            service = deployments[0].service if deployments else "this service"
            raise UnavailableError(f"no live deployment answers for {service!r} yet; deploy a model version, then ask again")
        if canaries:
            place = share_of(live.service, key)
            for candidate in canaries:
                place -= candidate.weight
                if place < 0:
                    return candidate
        return live
