"""What the model server says about itself: protocol metadata, health and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tidemill.serving import metrics, protocol
from tidemill.serving.board import Board
from tidemill.serving.endpoint import Endpoint
from tidemill.serving.feast import FeatureRoutes
from tidemill.serving.http import JSON, OPEN_METRICS, TEXT, Reply
from tidemill.serving.shadow import Shadows
from tidemill.serving.writer import LogWriter

_FEATURES = "/features"


def reply(value: Any, status: int = 200) -> Reply:
    """A JSON answer."""
    return status, JSON, msgspec.json.encode(value)


def described(endpoint: Endpoint, version: int | None) -> dict[str, Any]:
    """Metadata of a model, or of one of its deployed versions."""
    versions = [version] if version is not None else [d.version for d in endpoint.scorer.lineup.deployments]
    return protocol.metadata(endpoint.scorer.plan, versions, texts_of(endpoint))


def texts_of(endpoint: Endpoint) -> frozenset[str]:
    """The columns that take texts."""
    models = endpoint.scorer.lineup.models.values()
    return endpoint.scorer.plan.texts.union(*(model.texts for model in models))


class Pages:
    """The pages without arguments, by path in `at`."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        writers: Sequence[LogWriter],
        shadows: Sequence[Shadows],
        stopping: Callable[[], bool],
        lags: Callable[[], Mapping[str, float]],
        features: FeatureRoutes | None = None,
        streams: Callable[[], Mapping[str, Mapping[str, float]]] = dict,
    ) -> None:
        self._features, self._streams = features, streams
        self._endpoints = endpoints
        self._writers = writers
        self._shadows = shadows
        self._stopping = stopping
        self._lags = lags
        self.board: Board | None = None
        self.at: Mapping[str, Callable[[], Reply]] = {
            "/v2/health": self._health,
            "/metrics": self.exposition,
        }

    def is_ready(self) -> bool:
        """Whether every service has a live model, and the server goes on."""
        return not self._stopping() and all(e.scorer.lineup.live is not None for e in self._endpoints.values())

    def _health(self) -> Reply:
        services = {
            name: {
                "serves": [{"version": d.version, "role": d.role, "weight": d.weight} for d in e.scorer.lineup.deployments],
                "problem": e.problem or None,
                "features": e.scorer.plan.problem or "ok",
                "refused": dict(e.scorer.lineup.failures),
            }
            for name, e in self._endpoints.items()
        }
        reasons = [writer.reason for writer in self._writers if writer.degraded]
        state = {"state": "degraded" if reasons else "ok", "reasons": reasons, "waiting": sum(w.backlog for w in self._writers)}
        return reply({"live": True, "ready": self.is_ready(), "logging": state, "services": services})

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
            "feature_lag_seconds": {f'view="{view}"': lag for view, lag in self._lags().items()},
            "features_unavailable": {f'service="{name}"': int(bool(e.scorer.plan.problem)) for name, e in self._endpoints.items()},
        }
        gauges |= {name: dict(values) for name, values in self._streams().items()}
        services, now, ever = self._services(), self._now(), self._ever()
        if self.board is not None:
            self.publish()
            services, now, ever = self.board.together(services, now, ever)
        gauges |= {name: {"": value} for name, value in (now | ever).items()}
        asked = services.pop(_FEATURES, None)
        text = metrics.render(services, gauges, exemplars=opened)
        if asked is not None and self._features is not None:
            text += self._features.exposition(asked)
        return (200, OPEN_METRICS, metrics.open_metrics(text).encode()) if opened else (200, TEXT, text.encode())

    def publish(self) -> None:
        """Look at some of what was answered, and put this process's counts where the others add them to theirs."""
        for endpoint in self._endpoints.values():
            endpoint.metrics.look()
        if self.board is not None:
            self.board.write(self._services(), self._now(), self._ever())

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
            "shadow_dropped_total": sum(s.dropped for s in self._shadows),
            "shadow_failed_total": sum(s.failed for s in self._shadows),
            "shadow_scored_total": sum(s.scored for s in self._shadows),
        }
