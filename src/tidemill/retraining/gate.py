"""The gate: does the challenger beat the champion, on the same rows, beyond chance?

Per row the two models' losses are paired: d = challenger - champion, negative is better. Rows of one block (a day) are correlated, so
blocks are the units: the mean of d is a ratio of block sums and its variance the cluster-robust one, tested with a t
distribution on G - 1 degrees of freedom (Liang & Zeger 1986; Cameron & Miller 2015 for few clusters). One-sided at the gate's alpha.

Several tests: the primary metric decides alone, so its error rate is alpha whatever else is looked at. Slices can only veto: a slice where
the challenger is worse, by the same test with Holm's correction over slices, rejects it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from tidemill.core import ids
from tidemill.core.definitions import Gate, Service
from tidemill.core.errors import InvalidError, NotFoundError, RefusedError
from tidemill.core.instants import parse_duration
from tidemill.monitoring.losses import row_losses
from tidemill.registry.ports import ModelVersion
from tidemill.retraining import transitions
from tidemill.retraining.ports import Decision, HoldoutRows, Loop
from tidemill.retraining.sequences import intraclass

Floats = npt.NDArray[np.float64]
METHOD = "paired differences, cluster-robust t over blocks, one-sided"
RULE = "the primary metric decides alone; slices may only veto, corrected by Holm"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why the gate decided as it did. `effect` = mean loss of challenger - champion; [low, high] is its interval at `level`, two-sided.

    `differences` are [block, rows, mean difference] for the plot; `icc` is their correlation within a block, which the rollout takes over.
    """

    outcome: str
    reason: str
    metric: str
    n: int
    blocks: int
    effect: float | None
    low: float | None
    high: float | None
    p: float | None
    alpha: float
    level: float
    min_effect: float
    mean_champion: float | None
    mean_challenger: float | None
    icc: float
    differences: list[list[float]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    method: str = METHOD
    rule: str = RULE


@dataclass(frozen=True, slots=True)
class _Test:
    effect: float
    error: float
    degrees: int

    def p_below(self, bound: float) -> float:
        """Probability of such an effect or a lower one, were the truth `bound`."""
        if self.error == 0:
            return 0.0 if self.effect < bound else 1.0
        return float(stdtr(self.degrees, (self.effect - bound) / self.error))

    def interval(self, level: float) -> tuple[float, float]:
        half = float(stdtrit(self.degrees, 0.5 + level / 2)) * self.error
        return self.effect - half, self.effect + half


def judge(
    losses_champion: Floats,
    losses_challenger: Floats,
    block_ids: npt.NDArray[np.int64],
    gate: Gate,
    slices: Mapping[str, Sequence[Any]] | None = None,
) -> Evidence:
    """Compare two models by their losses on the same rows.

    Args:
        losses_champion: (n,) losses, finite.
        losses_challenger: (n,) losses, finite.
        block_ids: (n,) number of each row's block.
        gate: metric, alpha, least effect and least number of blocks.
        slices: each row's group, by slice name; groups with fewer than `gate.min_blocks` blocks are not tested.

    Returns:
        The evidence; `outcome` is promote, reject, or hold when there are too few blocks to tell.

    Raises:
        InvalidError: lengths differ or a loss is not finite.
    """
    if not losses_champion.shape == losses_challenger.shape == block_ids.shape:
        raise InvalidError(f"losses and blocks must align: {losses_champion.size}, {losses_challenger.size}, {block_ids.size} rows")
    difference = losses_challenger - losses_champion
    if not np.isfinite(difference).all():
        raise InvalidError("a loss is not finite; a model that answers NaN cannot be judged")
    blocks, position, sizes = np.unique(block_ids, return_inverse=True, return_counts=True)
    level = 1 - 2 * gate.alpha
    facts: dict[str, Any] = {
        "metric": gate.metric,
        "n": int(difference.size),
        "blocks": int(blocks.size),
        "alpha": gate.alpha,
        "level": level,
    }
    facts |= {"min_effect": gate.min_effect, "icc": intraclass(difference, block_ids)[0]}
    facts["mean_champion"] = float(losses_champion.mean()) if difference.size else None
    facts["mean_challenger"] = float(losses_challenger.mean()) if difference.size else None
    means = np.bincount(position, weights=difference) / sizes
    facts["differences"] = [[int(b), int(s), float(m)] for b, s, m in zip(blocks, sizes, means, strict=True)]
    if blocks.size < max(2, gate.min_blocks):
        reason = f"{blocks.size} blocks of {gate.block} are too few; the gate asks for {max(2, gate.min_blocks)}"
        return Evidence("hold", reason, effect=float(difference.mean()) if difference.size else None, low=None, high=None, p=None, **facts)
    test = _test(difference, position, sizes)
    p = test.p_below(-gate.min_effect)
    low, high = test.interval(level)
    vetoes = _slices(difference, block_ids, slices or {}, gate)
    outcome, reason = _verdict(test, p, gate, vetoes, equal=not difference.any())
    return Evidence(outcome, reason, effect=test.effect, low=low, high=high, p=p, slices=vetoes, **facts)


def _test(difference: Floats, position: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> _Test:
    effect, groups = float(difference.mean()), sizes.size
    scores = np.bincount(position, weights=difference - effect, minlength=groups)
    variance = groups / (groups - 1) * float(np.square(scores).sum()) / difference.size**2
    return _Test(effect, variance**0.5, groups - 1)


def _verdict(test: _Test, p: float, gate: Gate, vetoes: Sequence[Mapping[str, Any]], *, equal: bool) -> tuple[str, str]:
    if equal:
        return "reject", "the challenger answers exactly as the champion does"
    if p > gate.alpha:
        least = f" by {gate.min_effect:g}" if gate.min_effect else ""
        return "reject", f"not shown to be better{least}: effect {test.effect:+.5f} {gate.metric}, p {p:.3g} > {gate.alpha:g}"
    if harmed := [v for v in vetoes if v["vetoes"]]:
        worst = min(harmed, key=lambda v: float(v["p_holm"]))
        return (
            "reject",
            f"better overall, but worse where {worst['slice']} is {worst['group']}: {worst['effect']:+.5f}, corrected p {worst['p_holm']:.3g}",
        )
    return "promote", f"better: effect {test.effect:+.5f} {gate.metric}, p {p:.3g} <= {gate.alpha:g}"


def _slices(difference: Floats, block_ids: npt.NDArray[np.int64], slices: Mapping[str, Sequence[Any]], gate: Gate) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, groups in slices.items():
        labels = np.array([str(g) for g in groups])
        for group in np.unique(labels):
            inside = labels == group
            _, position, sizes = np.unique(block_ids[inside], return_inverse=True, return_counts=True)
            if sizes.size >= max(2, gate.min_blocks):
                test = _test(difference[inside], position, sizes)
                harm = 1 - test.p_below(0.0) if test.error else float(test.effect <= 0)
                found.append({"slice": name, "group": str(group), "n": int(inside.sum()), "effect": test.effect, "p": harm})
    adjusted = 0.0
    for rank, item in enumerate(sorted(found, key=lambda i: float(i["p"]))):
        adjusted = max(adjusted, min(1.0, (len(found) - rank) * float(item["p"])))
        item |= {"p_holm": adjusted, "vetoes": adjusted <= gate.alpha}
    return found


def decide(loop: Loop, service: Service, version: int) -> Decision:
    """Judge a registered version against the live one, or against the constant prior when there is none; nothing is written.

    The rows are the challenger's held-out ones: it was not trained on them, nor was a champion that was trained before they happened.

    Raises:
        NotFoundError: no such version.
        InvalidError: the two cannot answer the same rows.
    """
    challenger = loop.registry.get(service.name, version)
    live = transitions.live(loop.ledger, service.name)
    opponent = loop.registry.get(service.name, live.version) if live else None
    try:
        rows = loop.holdout(challenger)
    except (InvalidError, RefusedError, NotFoundError) as error:
        rows = HoldoutRows((), (), np.empty(0), np.empty(0, dtype=np.int64), float("nan"))
        evidence = _untested("hold", f"there are no held-out rows to judge on: {error}", service.gate, rows)
    else:
        evidence = _evidence(loop, service, challenger, opponent, rows)
    body = asdict(evidence) | {"champion": opponent.version if opponent else None, "challenger": version, "block": service.gate.block}
    body |= {"against": "champion" if opponent else "constant prior", "prior": rows.prior}
    body |= {"from_us": int(rows.at_us.min()), "until_us": int(rows.at_us.max())} if rows.at_us.size else {}
    return Decision(
        id=ids.derive("decision", "gate", service.name, version, opponent.version if opponent else 0),
        kind="gate",
        service=service.name,
        subject=f"{service.name}/{version}",
        outcome=evidence.outcome,
        cause={"run_id": challenger.run_id, "champion": opponent.version if opponent else None, "version": version},
        evidence=body,
        actor=loop.actor,
        at_us=loop.clock.now_us(),
    )


def _evidence(loop: Loop, service: Service, challenger: ModelVersion, opponent: ModelVersion | None, rows: HoldoutRows) -> Evidence:
    metric, labels = service.gate.metric, rows.labels
    try:
        mine = row_losses(metric, labels, _scores(loop, challenger, rows))
    except (InvalidError, RefusedError) as error:
        return _untested("reject", f"the challenger cannot be used: {error}", service.gate, rows)
    try:
        scores = np.full(labels.size, rows.prior) if opponent is None else _scores(loop, opponent, rows)
        champion = row_losses(metric, labels, scores)
    except (InvalidError, RefusedError) as error:
        return _untested("hold", f"the champion cannot answer these rows: {error}", service.gate, rows)
    return judge(champion, mine, rows.at_us // parse_duration(service.gate.block), service.gate, rows.slices)


def _untested(outcome: str, reason: str, gate: Gate, rows: HoldoutRows) -> Evidence:
    unknown: dict[str, Any] = dict.fromkeys(("effect", "low", "high", "p", "mean_champion", "mean_challenger"))
    facts: dict[str, Any] = {"n": int(rows.labels.size), "blocks": 0, "level": 1 - 2 * gate.alpha, "icc": 0.0}
    return Evidence(outcome, reason, metric=gate.metric, alpha=gate.alpha, min_effect=gate.min_effect, **unknown, **facts)


def _scores(loop: Loop, version: ModelVersion, rows: HoldoutRows) -> Floats:
    model = loop.runtime.load(loop.blobs.fetch(version.digest))
    if missing := [f for f in model.features if f not in rows.columns]:
        raise InvalidError(
            f"{version.uri} needs {', '.join(missing)}, which the held-out rows lack; retrain it on the service's present features"
        )
    order = [rows.columns.index(f) for f in model.features]
    plain = order == list(range(len(rows.columns)))
    return np.asarray(model.predict(rows.rows if plain else [tuple(row[i] for i in order) for row in rows.rows]), dtype=np.float64)
