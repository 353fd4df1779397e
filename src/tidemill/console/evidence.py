"""Evidence as people read it: one sentence, a picture, and what is left as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tidemill.console.draw.interval import interval
from tidemill.console.words import day, number, plain, signed
from tidemill.core.errors import InvalidError
from tidemill.core.instants import DAY_US, parse_duration

_ELSEWHERE = frozenset(("differences", "slices", "series", "top", "reason"))
_POINT = ("at_us", "n", "effect", "low", "high")


@dataclass(frozen=True, slots=True)
class Shown:
    """A decision's evidence. `facts` are (name, text) pairs, `slices` rows of a table, `picture` the effect with its interval."""

    said: str
    facts: tuple[tuple[str, str], ...]
    slices: tuple[Mapping[str, Any], ...]
    picture: Markup


def show(decision: Mapping[str, Any]) -> Shown:
    """Prepare a decision's evidence for a page."""
    evidence: Mapping[str, Any] = decision.get("evidence") or {}
    facts = [
        (plain(k), _fact(k, v)) for k, v in evidence.items() if k not in _ELSEWHERE and v is not None and not isinstance(v, list | dict)
    ]
    slices = evidence.get("slices") or ()
    return Shown(summary(decision), tuple(facts), tuple(s for s in slices if isinstance(s, Mapping)), _picture(evidence))


def _fact(key: str, value: Any) -> str:
    if key.endswith("_us") and isinstance(value, int):
        return day(value)
    if isinstance(value, int | float):
        return number(value, 4)
    return plain(value) if key == "outcome" else str(value)


def summary(decision: Mapping[str, Any]) -> str:
    """One line: the recorded reason, or the effect with its interval, or the first few facts."""
    evidence: Mapping[str, Any] = decision.get("evidence") or {}
    if evidence.get("reason"):
        return str(evidence["reason"])
    if evidence.get("anomalies"):
        return "; ".join(f"{a['column']}: {a['observed']}" for a in evidence["anomalies"][:3])
    effect, low, high = effect_of(evidence), evidence.get("low"), evidence.get("high")
    if effect is not None:
        within = f", {signed(low)} to {signed(high)}" if low is not None and high is not None else ""
        return f"{plain(evidence.get('metric', 'effect'))} {signed(effect)}{within}, n {number(evidence.get('n'))}"
    return ", ".join(f"{plain(k)} {v}" for k, v in list(evidence.items())[:4] if not isinstance(v, list | dict))


def effect_of(evidence: Mapping[str, Any]) -> float | None:
    """The measured difference: a gate calls it `effect`, a rollout `mean` (there `effect` is text)."""
    for name in ("effect", "mean"):
        value = evidence.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _picture(evidence: Mapping[str, Any]) -> Markup:
    effect = effect_of(evidence)
    if effect is None:
        return Markup("")
    margin, unit = evidence.get("margin") or 0.0, plain(evidence.get("metric", "log_loss"))
    return interval(effect, evidence.get("low"), evidence.get("high"), blocks(evidence), margin=margin, unit=unit)


def blocks(evidence: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(name, mean difference) of each block of a gate, from its `differences` of [block number, rows, difference]."""
    length = _length(evidence.get("block"))
    found = evidence.get("differences") or []
    return [(day(int(item[0] * length)), float(item[2])) for item in found if len(item) > 2 and item[2] is not None]


def _length(block: Any) -> int:
    try:
        return parse_duration(str(block)) if block else DAY_US
    except InvalidError:
        return DAY_US


def looks(evidence: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The successive looks of a confidence sequence, from its `series` of [until_us, n, mean, low, high]."""
    found: Sequence[Sequence[Any]] = (evidence or {}).get("series") or []
    return [dict(zip(_POINT, look, strict=True)) for look in found if len(look) == len(_POINT) and look[2] is not None]
