"""How much of what was predicted has met its label."""

from __future__ import annotations

from tidemill.api.needs import Needs
from tidemill.api.queries import monitoring
from tidemill.api.queries.rows import Record
from tidemill.core.errors import not_found


def coverage(platform: Needs, label: str, *, windows: int = 30) -> Record:
    """Coverage per service that predicts this label, from its last observed windows. Raises `NotFoundError`."""
    if label not in platform.definitions.labels:
        raise not_found("label", label, platform.definitions.labels)
    definition = platform.definitions.labels[label]
    out = []
    with platform.ledger.read() as db:
        for service in platform.definitions.services.values():
            if service.label.name == label:
                seen = monitoring.series(db, service.name, service.gate.metric, limit=windows)
                keep = ("version", "from_us", "until_us", "n", "covered")
                out.append({"service": service.name, "windows": [{k: row[k] for k in keep} for row in seen]})
    return {"label": label, "table": definition.table.name, "matures_us": definition.matures_us, "services": out}
