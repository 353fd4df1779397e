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


class LedgerRouter:
    """A `Router` over the ledger's `deployment` table, one SELECT a question.

    An id's place in [0, 1) is a hash of the service and the id. Canaries take the low end, so a canary that grows from 10 % to
    50 % keeps the requests it had; what no canary takes is live's.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def deployments(self, service: str) -> list[Deployment]:
        query = (
            sa.select(
                deployment.c.id,
                deployment.c.service,
                deployment.c.model,
                deployment.c.version,
                model_version.c.digest,
                deployment.c.role,
                deployment.c.weight,
                deployment.c.since_us,
            )
            .join(model_version, (model_version.c.name == deployment.c.model) & (model_version.c.version == deployment.c.version))
            .where(deployment.c.service == service, deployment.c.role.in_(list(_ORDER)), deployment.c.ended_us.is_(None))
        )
        with self._ledger.read() as db:
            rows = db.execute(query).all()
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
