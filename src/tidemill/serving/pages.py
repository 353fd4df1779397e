"""What the model server says about itself: protocol metadata, health and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec

from tidemill.core.clock import Clock
from tidemill.core.conditions import Condition
from tidemill.core.errors import TidemillError
from tidemill.core.instants import SECOND_US, format_instant
from tidemill.serving import metrics, protocol
from tidemill.serving.board import Board, Counts
from tidemill.serving.conditions import Conditions, exposition
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.feast import FeatureRoutes
from tidemill.serving.http import JSON, OPEN_METRICS, TEXT, Reply
from tidemill.serving.shadow import Comparing
from tidemill.serving.writer import LogWriter

_FEATURES = "/features"
T = TypeVar("T")


def reply(value: Any, status: int = 200) -> Reply:
    """A JSON answer."""
    return status, JSON, msgspec.json.encode(value)


def described(endpoint: Endpoint, version: int | None) -> dict[str, Any]:
    """Metadata of a model, or of one of its deployed versions."""
    lineup = endpoint.scorer.lineup
    versions = [version] if version is not None else [d.version for d in lineup.deployments]
    asked = next((d for d in lineup.deployments if d.version == version), lineup.live)
    platform = lineup.models[asked.digest].platform if asked is not None else ""
    return protocol.metadata(endpoint.scorer.plan, versions, texts_of(endpoint), platform)


def texts_of(endpoint: Endpoint) -> frozenset[str]:
    """The columns that take texts."""
    models = endpoint.scorer.lineup.models.values()
    return endpoint.scorer.plan.texts.union(*(model.texts for model in models))


def state_of(endpoint: Endpoint, conditions: Sequence[Condition]) -> str:
    """What a service does: `serving`, `degraded`, or why nothing answers yet and what to do about it."""
    service = endpoint.scorer.service
    if any(c.service == service.name for c in conditions):
        return "degraded"
    if endpoint.scorer.lineup.live is not None:
        return "serving"
    if endpoint.problem:
        return endpoint.problem
    if service.pipeline is not None:
        return "no model yet; `tidemill train` makes one, which goes live when its gate lets it through"
    return f"no model yet; register one as {service.name!r}, then `tidemill deploy VERSION --now`"


def _if_there(ask: Callable[[], Mapping[str, T]]) -> Mapping[str, T]:
    """What a system says, or nothing while it is gone: metrics are asked for then most of all."""
    try:
        return ask()
    except TidemillError:
        return {}


class Pages:
    """The pages without arguments, by path in `at`."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        writers: Sequence[LogWriter],
        shadows: Mapping[int, Comparing],
        conditions: Conditions,
        clock: Clock,
        stopping: Callable[[], bool],
        known_us: Callable[[], Mapping[str, int]],
        features: FeatureRoutes | None = None,
        streams: Callable[[], Mapping[str, Mapping[str, float]]] = dict,
    ) -> None:
        self._features, self._streams = features, streams
        self._endpoints = endpoints
        self._writers = writers
        self._shadows = shadows
        self._stopping = stopping
        self._known_us = known_us
        self._own, self._clock = conditions, clock
        self.board: Board | None = None
        self.expires_us: Callable[[], int] | None = None
        self.at: Mapping[str, Callable[[], Reply]] = {
            "/v2/health": self._health,
            "/metrics": self.exposition,
        }

    def is_ready(self) -> bool:
        """Whether every service has a live model, and the server goes on."""
        return not self._stopping() and all(e.scorer.lineup.live is not None for e in self._endpoints.values())

    def conditions(self) -> list[Condition]:
        """What this server has to do without, all its processes taken together."""
        mine = self._own.current()
        return mine if self.board is None else self.board.conditions(mine)

    def _health(self) -> Reply:
        conditions = self.conditions()
        services = {
            name: {
                "state": state_of(e, conditions),
                "serves": [{"version": d.version, "role": d.role, "weight": d.weight} for d in e.scorer.lineup.deployments],
                "problem": e.problem or None,
                "features": e.scorer.plan.problem or "ok",
                "refused": dict(e.scorer.lineup.failures),
            }
            for name, e in self._endpoints.items()
        }
        reasons = [writer.reason for writer in self._writers if writer.degraded]
        state = {"state": "degraded" if reasons else "ok", "reasons": reasons, "waiting": sum(w.backlog for w in self._writers)}
        told = [{**asdict(c), "since": format_instant(c.since_us)} for c in conditions]
        return reply({"live": True, "ready": self.is_ready(), "conditions": told, "logging": state, "services": services})

    def _lags(self) -> dict[str, float]:
        """How far the newest known row in the online state of each view lies behind the present, in seconds."""
        now = self._clock.now_us()
        return {view: max(0, now - us) / SECOND_US for view, us in sorted(self._known_us().items())}

    def exposition(self, accept: str = "") -> Reply:
        """What is counted: OpenMetrics, with exemplars, where the scraper accepts it, else Prometheus' text format."""
        opened = "application/openmetrics-text" in accept
        weights = {
            f'service="{name}",version="{d.version}",role="{d.role}"': d.weight
            for name, e in self._endpoints.items()
            for d in e.scorer.lineup.deployments
        }
        gauges: dict[str, dict[str, Any]] = {
            "deployment_weight": weights,
            "queue_rows": {f'service="{name}"': e.queued for name, e in self._endpoints.items()},
            "feature_lag_seconds": {f'view="{view}"': lag for view, lag in _if_there(self._lags).items()},
            "features_unavailable": {f'service="{name}"': int(bool(e.scorer.plan.problem)) for name, e in self._endpoints.items()},
        }
        if self.expires_us is not None and (until := self.expires_us()):
            gauges["certificate_expires_seconds"] = {"": until / SECOND_US}
        if not self._own.has("ledger"):
            gauges |= {name: dict(values) for name, values in _if_there(self._streams).items()}
        if self.board is None:
            services, now, ever = self._services(), self._now(), self._ever()
        else:
            self._look()
            services, now, ever = self.board.together(self.board.write(self._counts, self._own.current()))
        gauges |= {name: {"": value} for name, value in (now | ever).items()}
        asked = services.pop(_FEATURES, None)
        text = metrics.render(services, gauges, exemplars=opened)
        text += "".join(f"{line}\n" for line in exposition(self._endpoints, self.conditions(), self._clock.now_us()))
        if asked is not None and self._features is not None:
            text += self._features.exposition(asked)
        return (200, OPEN_METRICS, metrics.open_metrics(text).encode()) if opened else (200, TEXT, text.encode())

    def publish(self) -> None:
        """Look at some of what was answered, and put this process's counts where the others add them to theirs."""
        self._look()
        if self.board is not None:
            self.board.write(self._counts, self._own.current())

    def _look(self) -> None:
        for endpoint in self._endpoints.values():
            endpoint.metrics.look()

    def _counts(self) -> Counts:
        return Counts({name: one.facts() for name, one in self._services().items()}, self._now(), self._ever())

    def _services(self) -> dict[str, metrics.ServiceMetrics]:
        """Counters by service; those of the feature server are under a name that no service can have."""
        features = {} if self._features is None else {_FEATURES: self._features.metrics}
        return {n: e.metrics for n, e in self._endpoints.items()} | features

    def _now(self) -> dict[str, int]:
        """What is so at this moment; it ends with the process."""
        degraded = int(any(w.degraded for w in self._writers))
        return {"log_degraded": degraded, "log_backlog_rows": sum(w.backlog for w in self._writers)}

    def _ever(self) -> dict[str, int]:
        """What has happened since the server started."""
        return {
            "log_lost_total": sum(w.lost for w in self._writers),
            "shadow_dropped_total": sum(s.dropped for s in self._shadows.values()),
            "shadow_failed_total": sum(s.failed for s in self._shadows.values()),
            "shadow_restarts_total": sum(s.restarts for s in self._shadows.values()),
            "shadow_scored_total": sum(s.scored for s in self._shadows.values()),
        }
