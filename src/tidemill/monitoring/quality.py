"""Labelled quality of what was served, with its coverage and interval.

Per day and version only sums are kept (rows, losses, squared losses, a histogram of scores by label), so any longer window is
merged from days and no row is read twice once its day is final. A day is final when every label that may still be expected has had
its time; until then each call restates it.

Intervals: the mean is a ratio of block sums, its variance the cluster-robust one, `G/(G-1) * sum((s_g - n_g * mean)^2) / N^2`, with a t
quantile on G-1 degrees. Blocks are days; a window of a single day uses its hours and says so. Rows of one day share weather and
traffic, so an interval over rows would be far too narrow. AUC: the histogram's, its interval by leaving out one block at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import stdtrit

from tidemill.core.definitions import Service
from tidemill.core.instants import DAY_US, HOUR_US
from tidemill.monitoring.losses import Floats, row_losses
from tidemill.monitoring.ports import LabelStore, MetricSink, MetricSource, Observation
from tidemill.serving.ports import PredictionLog, Role

LEVEL = 0.95
BINS = 100
OBJECTIVES = ("log_loss", "brier", "auc")
ANSWERED: tuple[Role, ...] = ("live", "canary")


class Metrics(MetricSink, MetricSource, Protocol):
    """Observations, written and read back."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions of one version with their labels (NaN: none known yet), aligned, by time."""

    id: npt.NDArray[Any]
    at_us: npt.NDArray[np.int64]
    score: Floats
    label: Floats


def scored(
    service: Service,
    version: int | None,
    *,
    log: PredictionLog,
    labels: LabelStore,
    from_us: int,
    until_us: int,
    at_us: int,
    roles: Collection[Role] = ANSWERED,
) -> Scored:
    """Join the log of [from_us, until_us) with the labels known at `at_us`. `version` None: whoever answered."""
    rows = log.scores(service.name, from_us=from_us, until_us=until_us)
    keep = np.array([role in roles for role in rows["role"].tolist()], dtype=bool)
    if version is not None:
        keep &= rows["version"] == version
    ids = rows["id"][keep]
    label = labelled(service, labels, ids, from_us=from_us, at_us=at_us)
    return Scored(ids, rows["at_us"][keep].astype(np.int64), rows["score"][keep].astype(np.float64), label)


def labelled(service: Service, labels: LabelStore, ids: npt.NDArray[Any], *, from_us: int, at_us: int) -> Floats:
    """Labels of predictions as known at `at_us`, aligned with `ids`, NaN where there is none. `from_us`: the earliest of the predictions."""
    found = labels.as_of(service.label.name, at_us, from_event_us=from_us, writers=service.label.writers)
    position = pc.index_in(pa.array(ids, pa.string()), found.column("key").combine_chunks())
    values = found.column("value").combine_chunks().take(position)
    out: Floats = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return out


def window(service: Service, version: int | None, *, metrics: MetricSource, from_us: int, until_us: int) -> Observation | None:
    """The gate metric over [from_us, until_us), merged from the days that were observed; None when there are none. Reads no prediction."""
    found = metrics.read(service.name, objective=OBJECTIVES[0], version=version or 0, from_us=from_us)
    days = [o.body["day"] for o in found if "day" in o.body and o.from_us >= from_us and o.until_us <= until_us]
    if not days:
        return None
    return next(o for o in _observe(service.name, version or 0, days, from_us, until_us) if o.objective == service.gate.metric)


def quality(
    service: Service,
    version: int | None,
    *,
    log: PredictionLog,
    labels: LabelStore,
    metrics: Metrics,
    from_us: int,
    until_us: int,
    at_us: int,
) -> Observation:
    """Observe labelled quality of a version over whole days [from_us, until_us), as known at `at_us`.

    Writes one observation per objective for each day that was not final and for the window itself; version None (stored as 0)
    stands for whatever version answered.

    Returns:
        The window's observation of the service's gate metric; `body` has the method, the blocks and how many rows are pending or censored.
    """
    start, end = from_us - from_us % DAY_US, until_us - until_us % DAY_US
    number = version or 0
    ripe = service.lead_us + service.label.matures_us
    days = _final_days(metrics, service.name, number, start, end)
    missing = [d for d in range(start, end, DAY_US) if d not in days]
    if missing:
        first, last = missing[0], missing[-1] + DAY_US
        rows = scored(service, version, log=log, labels=labels, from_us=first, until_us=last, at_us=at_us)
        fresh = {d: _day(rows, d, final=d + DAY_US + ripe <= at_us, open_us=at_us - ripe) for d in missing}
        fresh = {d: body for d, body in fresh.items() if body["n"]}
        metrics.write([o for d, body in fresh.items() for o in _observe(service.name, number, [body], d, d + DAY_US)], at_us=at_us)
        days |= fresh
    merged = _observe(service.name, number, [days[d] for d in sorted(days)], start, end)
    if end - start != DAY_US and days:
        metrics.write(merged, at_us=at_us)
    return next(o for o in merged if o.objective == service.gate.metric)


def _final_days(metrics: MetricSource, service: str, version: int, start: int, end: int) -> dict[int, dict[str, Any]]:
    found = metrics.read(service, objective=OBJECTIVES[0], version=version, from_us=start)
    one_day = [o for o in found if o.until_us - o.from_us == DAY_US and start <= o.from_us < end]
    return {o.from_us: dict(o.body["day"]) for o in one_day if o.body.get("day", {}).get("final")}


def _day(rows: Scored, day: int, *, final: bool, open_us: int) -> dict[str, Any]:
    """Mergeable sums of one day: everything a longer window needs."""
    inside = (rows.at_us >= day) & (rows.at_us < day + DAY_US)
    labelled = inside & ~np.isnan(rows.label)
    y, p, at = rows.label[labelled], rows.score[labelled], rows.at_us[labelled]
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    out: dict[str, Any] = {"from_us": day, "final": final, "n": int(inside.sum()), "covered": int(labelled.sum())}
    out["pending"] = int((inside & np.isnan(rows.label) & (rows.at_us > open_us)).sum())
    out["positive"] = np.bincount(bins[y > 0.5], minlength=BINS).tolist() if y.size else []
    out["negative"] = np.bincount(bins[y <= 0.5], minlength=BINS).tolist() if y.size else []
    hours = (at - day) // HOUR_US
    for metric in ("log_loss", "brier"):
        loss = row_losses(metric, y, p)
        out[metric] = [float(loss.sum()), float(np.square(loss).sum())]
        out[f"{metric}_hours"] = [[int(h), int((hours == h).sum()), float(loss[hours == h].sum())] for h in np.unique(hours)]
    return out


def _observe(service: str, version: int, days: Sequence[Mapping[str, Any]], start: int, end: int) -> list[Observation]:
    n, covered, pending = (sum(int(d[k]) for d in days) for k in ("n", "covered", "pending"))
    counts = {"pending": pending, "censored": n - covered - pending, "level": LEVEL}
    single = len(days) == 1 and end - start == DAY_US
    out = []
    for objective in OBJECTIVES:
        body: dict[str, Any] = {}
        if objective == "auc":
            value, low, high, count = _auc_interval(days)
            body |= {"method": "histogram AUC, jackknife over days", "blocks": count}
        else:
            blocks = [d[1:] for d in days[0][f"{objective}_hours"]] if single else [[d["covered"], d[objective][0]] for d in days]
            value, low, high = block_interval(
                np.array([b[0] for b in blocks], dtype=np.float64), np.array([b[1] for b in blocks], dtype=np.float64)
            )
            body |= {"method": f"cluster-robust t over {'hours' if single else 'days'}", "blocks": len(blocks)}
            body |= {"sum": sum(d[objective][0] for d in days), "sum_of_squares": sum(d[objective][1] for d in days)}
        if single and objective == OBJECTIVES[0]:
            body["day"] = dict(days[0])
        out.append(Observation(service, version, objective, start, end, value, low, high, n, covered, body | counts))
    return out


def block_interval(counts: Floats, sums: Floats, level: float = LEVEL) -> tuple[float | None, float | None, float | None]:
    """Mean and cluster-robust t interval from block sizes and block sums, both (blocks,); Nones where there is nothing to say."""
    counts, sums = counts[counts > 0], sums[counts > 0]
    total, blocks = float(counts.sum()), counts.size
    if not blocks:
        return None, None, None
    mean = float(sums.sum()) / total
    if blocks < 2:
        return mean, None, None
    variance = blocks / (blocks - 1) * float(np.square(sums - counts * mean).sum()) / total**2
    half = float(stdtrit(blocks - 1, 0.5 + level / 2)) * variance**0.5
    return mean, mean - half, mean + half


def _auc_interval(days: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None, float | None, int]:
    kept = [d for d in days if d["covered"]]
    if not kept:
        return None, None, None, 0
    positive = np.array([d["positive"] for d in kept], dtype=np.float64)
    negative = np.array([d["negative"] for d in kept], dtype=np.float64)
    value = binned_auc(positive.sum(axis=0), negative.sum(axis=0))
    left_out = [binned_auc(positive.sum(axis=0) - p, negative.sum(axis=0) - q) for p, q in zip(positive, negative, strict=True)]
    parts = np.array([v for v in left_out if v is not None])
    if value is None or parts.size < 2 or parts.size < len(kept):
        return value, None, None, len(kept)
    count = parts.size
    spread = float((count - 1) / count * np.square(parts - parts.mean()).sum()) ** 0.5
    half = float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * spread
    return value, max(0.0, value - half), min(1.0, value + half), count


def binned_auc(positive: Floats, negative: Floats) -> float | None:
    """Area under the ROC curve from counts of positives and negatives by score bin (ascending), ties counted half; None with one class."""
    pairs = float(positive.sum() * negative.sum())
    if not pairs:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)
