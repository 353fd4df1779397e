"""What the model server counts, in Prometheus' text exposition format, and in OpenMetrics with exemplars for a scraper that asks for it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tidemill.serving.ports import Prediction

LATENCY_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 4.096)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
LOOKS = 200
"""Rows of each look that are searched for nulls, about."""
_PREFIX = "tidemill_serving"
_SAFE = re.compile(r"[ -!#-\[\]-~]{1,100}")
"""What may stand in an exemplar as it is; OpenMetrics allows 128 characters, the label's name included."""
_FAMILY = re.compile(r"(?m)^(# (?:HELP|TYPE) )(\S+)_total( .*)$")


class Histogram:
    """Counts by upper bound. Not locked: the event loop alone observes."""

    __slots__ = ("bounds", "counts", "last", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.last: list[tuple[float, str]] = [(0.0, "")] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, of: str = "") -> None:
        """Count one value; `of` names the prediction that it is about, the bucket's exemplar until the next one."""
        place = bisect_left(self.bounds, value)
        self.counts[place] += 1
        self.total += value
        if of:
            self.last[place] = (value, of)

    def add(self, counts: Sequence[int], total: float) -> None:
        """Count what another one with the same bounds has counted."""
        self.counts = [mine + other for mine, other in zip(self.counts, counts, strict=True)]
        self.total += total

    def lines(self, name: str, labels: str, *, exemplars: bool = False) -> Iterator[str]:
        """Exposition lines: cumulative buckets, with exemplars if wanted, sum and count."""
        running = 0
        for bound, count, (value, of) in zip((*self.bounds, "+Inf"), self.counts, self.last, strict=True):
            running += count
            exemplar = f' # {{prediction_id="{of}"}} {value!r}' if exemplars and of and _SAFE.fullmatch(of) else ""
            yield f'{name}_bucket{{{labels},le="{bound}"}} {running}{exemplar}'
        yield f"{name}_sum{{{labels}}} {self.total!r}"
        yield f"{name}_count{{{labels}}} {running}"


class ServiceMetrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors: Counter[int] = Counter()
        self.predictions: Counter[tuple[int, str]] = Counter()
        self.degraded: Counter[str] = Counter()
        self.nulls: Counter[str] = Counter()
        self.looked = 0
        self._to_look: list[Prediction] = []
        self.latency = Histogram(LATENCY_S)
        self.batch = Histogram(BATCH)
        self.nodes: dict[str, Histogram] = {}
        self.node_failures: Counter[tuple[str, str]] = Counter()

    def node(self, name: str, seconds: float, state: str) -> None:
        """Count one call of a graph's node; `state` is empty, or how it failed."""
        self.nodes.setdefault(name, Histogram(LATENCY_S)).observe(seconds)
        if state:
            self.node_failures[name, state] += 1

    def offer(self, group: Sequence[Prediction]) -> None:
        """Let some of a group be looked at for nulls, if there is room."""
        if len(self._to_look) < LOOKS:
            self._to_look += group[:LOOKS]

    def look(self) -> None:
        """Count the nulls of what was offered since the last time: at most `LOOKS` rows and a group, off the way of requests."""
        rows, self._to_look = self._to_look, []
        for columns in {p.columns for p in rows}:
            self.nulls.update(dict.fromkeys(columns, 0))  # so that one without nulls is told as well
        for p in rows:
            if None in p.values:
                self.nulls.update([name for name, value in zip(p.columns, p.values, strict=True) if value is None])
        self.looked += len(rows)

    def facts(self) -> dict[str, Any]:
        """All counts as JSON has them; `add` takes them."""
        return {
            "requests": self.requests,
            "errors": list(self.errors.items()),
            "degraded": list(self.degraded.items()),
            "nulls": list(self.nulls.items()),
            "looked": self.looked,
            "predictions": [(*key, n) for key, n in list(self.predictions.items())],
            "latency": (self.latency.counts, self.latency.total),
            "batch": (self.batch.counts, self.batch.total),
            "nodes": {name: (h.counts, h.total) for name, h in list(self.nodes.items())},
            "node_failures": [(*key, n) for key, n in list(self.node_failures.items())],
        }

    def add(self, facts: Mapping[str, Any]) -> None:
        """Count what another process has counted."""
        self.requests += facts["requests"]
        self.errors.update(dict(facts["errors"]))
        self.degraded.update(dict(facts["degraded"]))
        self.nulls.update(dict(facts["nulls"]))
        self.looked += facts["looked"]
        self.predictions.update({(version, role): n for version, role, n in facts["predictions"]})
        self.latency.add(*facts["latency"])
        self.batch.add(*facts["batch"])
        for name, counted in facts["nodes"].items():
            self.nodes.setdefault(name, Histogram(LATENCY_S)).add(*counted)
        self.node_failures.update({(name, state): n for name, state, n in facts["node_failures"]})


def render(services: Mapping[str, ServiceMetrics], gauges: Mapping[str, Mapping[str, Any]], *, exemplars: bool = False) -> str:
    """The exposition of all services. `gauges`: metric name to label text to value; a name ending in `_total` is a counter."""
    out: list[str] = []
    for name, kind, text in _HELP:
        out += [f"# HELP {_PREFIX}_{name} {text}", f"# TYPE {_PREFIX}_{name} {kind}"]
        for service, metrics in services.items():
            out += _lines(name, f'service="{service}"', metrics, exemplars=exemplars)
    for name, values in gauges.items():
        out.append(f"# TYPE {_PREFIX}_{name} {'counter' if name.endswith('_total') else 'gauge'}")
        out += [f"{_PREFIX}_{name}{'{' + labels + '}' if labels else ''} {value}" for labels, value in values.items()]
    return "\n".join(out) + "\n"


def open_metrics(text: str) -> str:
    """An exposition as OpenMetrics 1.0 wants it: a counter's family goes without `_total`, and there is an end."""
    return _FAMILY.sub(r"\1\2\3", text) + "# EOF\n"


_HELP = (
    ("requests_total", "counter", "infer requests received"),
    ("errors_total", "counter", "infer requests refused or failed, by status"),
    ("predictions_total", "counter", "rows answered, by model version and role"),
    ("degraded_total", "counter", "rows answered without the features of the online store, by what stood for them"),
    ("feature_nulls_total", "counter", "nulls among the rows that were looked at, by model input"),
    ("feature_rows_total", "counter", "rows that were looked at for nulls: a sample, bounded in time"),
    ("latency_seconds", "histogram", "time from the body's arrival to the answer, logging included"),
    ("batch_rows", "histogram", "rows scored together"),
    ("node_seconds", "histogram", "time of a call of a graph's node"),
    ("node_failures_total", "counter", "calls of a graph's node that failed, by how: failed, timeout"),
)


def _lines(name: str, labels: str, metrics: ServiceMetrics, *, exemplars: bool) -> Iterator[str]:
    full = f"{_PREFIX}_{name}"
    if name == "requests_total":
        yield f"{full}{{{labels}}} {metrics.requests}"
    elif name == "errors_total":
        yield from (f'{full}{{{labels},status="{status}"}} {n}' for status, n in sorted(metrics.errors.items()))
    elif name == "predictions_total":
        yield from (f'{full}{{{labels},version="{v}",role="{role}"}} {n}' for (v, role), n in sorted(metrics.predictions.items()))
    elif name == "degraded_total":
        yield from (f'{full}{{{labels},mode="{mode}"}} {n}' for mode, n in sorted(metrics.degraded.items()))
    elif name == "feature_nulls_total":
        yield from (f'{full}{{{labels},column="{column}"}} {n}' for column, n in sorted(metrics.nulls.items()))
    elif name == "feature_rows_total":
        yield f"{full}{{{labels}}} {metrics.looked}"
    elif name == "latency_seconds":
        yield from metrics.latency.lines(full, labels, exemplars=exemplars)
    elif name.startswith("node_"):
        yield from _node_lines(full, labels, metrics)
    else:
        yield from metrics.batch.lines(full, labels)


def _node_lines(full: str, labels: str, metrics: ServiceMetrics) -> Iterator[str]:
    """What the nodes of a graph did; their names are those of its definition."""
    if full.endswith("seconds"):
        for node, histogram in sorted(metrics.nodes.items()):
            yield from histogram.lines(full, f'{labels},node="{node}"')
    else:
        yield from (f'{full}{{{labels},node="{node}",state="{state}"}} {n}' for (node, state), n in sorted(metrics.node_failures.items()))
