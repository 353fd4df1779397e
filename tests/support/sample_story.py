"""The model versions of the sample year: why each was trained, what the gate said and how its rollout went."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tidemill.core import digests, ids
from tidemill.core.instants import DAY_US, parse_instant
from tidemill.ledger.store import to_json

SERVICE = "flight-delay"
DAY = DAY_US
STEPS = ("training_set", "holdout", "tune", "fit", "evaluate", "register")
EDGES = {
    "holdout": ["training_set"],
    "tune": ["holdout"],
    "fit": ["holdout", "tune"],
    "evaluate": ["fit", "holdout"],
    "register": ["fit", "evaluate"],
}


def us(text: str) -> int:
    """An instant."""
    return int(parse_instant(text))


def day(text: str) -> int:
    """Days since the year began."""
    return (us(text) - us("2013-01-01")) // DAY


@dataclass(frozen=True, slots=True)
class Version:
    """One training and what became of it. `fate`: live, rejected, rolled_back, canary, failed."""

    number: int
    date: str
    cause: str
    fate: str
    effect: float
    half: float
    retired: str = ""

    @property
    def at_us(self) -> int:
        return us(self.date)

    @property
    def day(self) -> int:
        return day(self.date)

    @property
    def live_day(self) -> int | None:
        return None if self.fate != "live" else self.day + (0 if self.number == 1 else 3)

    @property
    def status(self) -> str:
        if self.fate == "live":
            return "retired" if self.retired else "champion"
        return {"canary": "challenger"}.get(self.fate, self.fate)

    @property
    def run_status(self) -> str:
        return "failed" if self.fate == "failed" else "finished"

    @property
    def run_id(self) -> str:
        return ids.derive("run", self.number, self.date)

    @property
    def digest(self) -> str:
        return digests.of_json(["model", self.number])

    def cause_evidence(self) -> dict[str, Any]:
        known: dict[str, dict[str, Any]] = {
            "quality": {"objective": "log_loss", "at_gate": 0.449, "seen": 0.492, "low": 0.474, "high": 0.51, "worse_by": 0.02},
            "drift": {"column": "sky__temp", "psi": 0.243, "threshold": 0.2},
            "new_data": {"days": 30, "every": "30d"},
            "schedule": {"every": "90d"},
        }
        return known.get(self.cause, {"by": "tidemill train"})

    def run_row(self, cause_id: str, wall: float) -> dict[str, Any]:
        failed = self.run_status == "failed"
        nodes = [{"id": s, "step": s, "args": {}} for s in STEPS]
        edges = [[need, node] for node, needs in EDGES.items() for need in needs]
        return {
            "id": self.run_id, "pipeline": "train", "service": SERVICE, "cause_id": cause_id, "status": self.run_status, "started_us": self.at_us,
            "params": to_json({"until": self.date}), "graph": to_json({"nodes": nodes, "edges": edges, "output": None}), "code": to_json({"commit": "6f1c2ab94d0e", "patch": "", "dirty": False}),
            "environment": to_json({"python": "3.11.7", "lightgbm": "4.6.0", "numpy": "2.1.3"}), "finished_us": self.at_us + int(wall * 1e6), "wall_s": wall,
            "error": "step fit: LightGBMError: num_leaves must be greater than 1, and was 0" if failed else None,
            "output": None if failed else to_json({"model": SERVICE, "version": self.number}),
        }  # fmt: skip

    def steps(self, rng: random.Random) -> list[dict[str, Any]]:
        out = []
        for i, step in enumerate(STEPS):
            failed, cached = self.fate == "failed" and step == "fit", self.number > 1 and step == "training_set" and self.cause == "manual"
            if self.fate == "failed" and i > 3:
                break
            inputs = {n: digests.of_json([n, self.number]) for n in EDGES.get(step, [])}
            out.append({
                "run_id": self.run_id, "node": step, "step": step, "status": "failed" if failed else "cached" if cached else "finished",
                "cache_key": digests.of_json([step, self.number]), "inputs": to_json(inputs), "at_us": self.at_us + i * 1_000_000,
                "key_parts": to_json({
                    "step": step, "code": {f"definitions.py:{step}": digests.of_json(step)}, "packages": {"lightgbm": "4.6.0"}, "inputs": inputs,
                    "params": {"until": self.date} if i == 0 else {}, "versions": {"tables": {"landings": 8231 + self.number}} if i == 0 else {},
                }),
                "output": None if failed else to_json({"digest": digests.of_json([step, self.number, "out"]), "codec": "pickle-free"}),
                "wall_ms": 0.9 if cached else rng.uniform(20, 6000), "error": "LightGBMError: num_leaves must be greater than 1, and was 0" if failed else None,
            })  # fmt: skip
        return out

    def params(self, rng: random.Random) -> dict[str, Any]:
        return {
            "leaves": rng.choice([15, 31, 47, 63]),
            "rate": round(rng.uniform(0.03, 0.2), 4),
            "trees": 200,
            "trials": 6,
            "until": self.date,
        }

    def metrics(self, rng: random.Random) -> list[dict[str, Any]]:
        rows = [("holdout.log_loss", 0, 0.452 + self.effect / 2), ("holdout.auc", 0, 0.781 - self.effect / 3), ("holdout.rows", 0, 6270.0)]
        value = 0.62
        for step in range(200):
            value += (0.449 + self.effect / 2 - value) * 0.035 + rng.gauss(0, 0.0007)
            rows.append(("valid.log_loss", step, value))
        rows += [("trial.log_loss", i, 0.46 + rng.uniform(0, 0.03) / (i + 1)) for i in range(6)]
        return [{"run_id": self.run_id, "name": n, "step": s, "value": v, "at_us": self.at_us + s * 1000} for n, s, v in rows]

    def scores(self) -> dict[str, float]:
        return {"log_loss": 0.452 + self.effect / 2, "auc": 0.781 - self.effect / 3, "rows": 6270.0}

    def meta(self) -> dict[str, Any]:
        snapshots = {
            t: 4_100_000_000_000_000_000 + self.number * 7_919 + i for i, t in enumerate(("schedule", "departures", "landings", "weather"))
        }
        return {
            "trained_from_us": us("2013-01-08"),
            "trained_until_us": self.at_us - 7 * DAY,
            "rows": self.day * 900,
            "snapshots": snapshots,
            "flavor": "lightgbm",
        }

    def _decision(self, kind: str, outcome: str, at_us: int, evidence: dict[str, Any], *, reverses: str | None = None) -> dict[str, Any]:
        return {
            "id": ids.derive("decision", kind, self.number, at_us), "kind": kind, "service": SERVICE, "subject": f"{SERVICE}/{self.number}", "outcome": outcome,
            "cause": to_json({"kind": self.cause, "run_id": self.run_id}), "evidence": to_json(evidence), "actor": "reconciler", "reverses": reverses, "at_us": at_us,
        }  # fmt: skip

    def gate_evidence(self) -> dict[str, Any]:
        rng, first = random.Random(self.number), self.at_us // DAY - 7
        days = [[first + i, 880 + rng.randrange(60), self.effect + rng.gauss(0, self.half * 1.2)] for i in range(7)]
        verb = "better" if self.fate != "rejected" else "not shown to be better"
        return {
            "outcome": "reject" if self.fate == "rejected" else "promote", "reason": f"{verb}: effect {self.effect:+.5f} log_loss, p 0.0{10 + self.number}",
            "metric": "log_loss", "n": 6270, "blocks": 7, "effect": self.effect, "low": self.effect - self.half, "high": self.effect + self.half,
            "p": 0.01, "alpha": 0.05, "level": 0.9, "min_effect": 0.0, "mean_champion": 0.471, "mean_challenger": 0.471 + self.effect, "icc": 0.01,
            "icc_upper": 0.04, "differences": days, "slices": [{"slice": "origin", "group": "JFK", "n": 2100, "effect": self.effect, "p_holm": 1.0, "vetoes": False}],
            "method": "paired differences, cluster-robust t over blocks, one-sided", "block": "1d", "champion": self.number - 1, "challenger": self.number,
        }  # fmt: skip

    def sequence(self, n: int) -> dict[str, Any]:
        rng, series, mean = random.Random(self.number * 31), list[list[Any]](), 0.0
        worse = 0.06 if self.fate == "rolled_back" else self.effect / 2
        for i in range(1, n):
            mean += (worse + rng.gauss(0, 0.02) - mean) / i**0.8
            half = 0.19 / i**0.66
            series.append([self.at_us + DAY + i * DAY // 12, 74 * i, mean, mean - half, mean + half])
        _, count, mean, low, high = series[-1]
        said = f"candidate - live = {mean:+.4f} [{low:+.4f}, {high:+.4f}] over {count} labelled requests"
        return {
            "reason": f"{'shown to be worse' if self.fate == 'rolled_back' else 'not worse than 0.02'}: {said}", "phase": "canary", "in_stage": count,
            "method": "asymptotic confidence sequence of paired losses", "waiting": 31, "mean_live": 0.471, "mean_candidate": 0.471 + mean, "icc": 0.04,
            "mean": mean, "low": low, "high": high, "n": count, "effect": "candidate - live, positive is worse", "alpha": 0.05, "margin": 0.02,
            "metric": "log_loss", "weight": 0.1, "series": series,
        }  # fmt: skip

    def decisions(self) -> list[dict[str, Any]]:
        if self.number == 1:
            first = {
                "reason": "better than the constant prior: effect -0.12011 log_loss",
                "metric": "log_loss",
                "mean_challenger": 0.449,
                "n": 6270,
            }
            return [self._decision("gate", "promote", self.at_us + 60_000_000, first)]
        outcome = "reject" if self.fate == "rejected" else "promote"
        out = [self._decision("gate", outcome, self.at_us + 60_000_000, self.gate_evidence())]
        if self.fate == "rejected":
            return out
        out.append(self._decision("rollout", "start", self.at_us + 120_000_000, {"reason": "passed the gate", "icc_upper": 0.04}))
        out.append(self._decision("rollout", "advance", self.at_us + DAY, self.sequence(9)))
        if self.fate == "rolled_back":
            return [*out, self._decision("rollback", "rollback", self.at_us + 3 * DAY, self.sequence(24), reverses=out[0]["id"])]
        if self.fate == "live":
            out.append(self._decision("rollout", "advance", self.at_us + 2 * DAY, self.sequence(17)))
            out.append(self._decision("rollout", "promote", self.at_us + 3 * DAY, self.sequence(24)))
        return out

    def deployments(self) -> list[dict[str, Any]]:
        if self.fate == "rejected":
            return []
        role, weight, ended = {"live": ("live", 0.9, None), "canary": ("canary", 0.1, None)}.get(
            self.fate, ("rolled_back", 0.0, self.at_us + 3 * DAY)
        )
        if self.retired:
            role, weight, ended = "retired", 0.0, us(self.retired)
        since = self.at_us + (DAY if self.fate == "canary" else 3 * DAY if self.number > 1 else 0)
        return [{
            "id": ids.derive("deployment", self.number), "service": SERVICE, "model": SERVICE, "version": self.number, "role": role, "weight": weight, "stage": 1,
            "decision_id": self.decisions()[-1]["id"], "since_us": since, "started_us": self.at_us, "ended_us": ended,
        }]  # fmt: skip


VERSIONS = (
    Version(1, "2013-03-01", "manual", "live", 0.0, 0.0, "2013-04-25"),
    Version(2, "2013-04-22", "quality", "live", -0.019, 0.011, "2013-06-02"),
    Version(3, "2013-05-30", "new_data", "live", -0.012, 0.009, "2013-07-24"),
    Version(4, "2013-07-05", "drift", "rejected", 0.003, 0.012),
    Version(5, "2013-07-21", "quality", "live", -0.031, 0.014, "2013-09-23"),
    Version(6, "2013-08-23", "new_data", "rolled_back", -0.009, 0.006),
    Version(7, "2013-09-20", "schedule", "live", -0.014, 0.01, "2013-12-13"),
    Version(8, "2013-12-10", "quality", "live", -0.027, 0.012),
    Version(9, "2013-12-21", "manual", "failed", 0.0, 0.0),
    Version(10, "2013-12-30", "new_data", "canary", -0.008, 0.006),
)
