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

_DRAWN = frozenset(("differences", "blocks", "looks", "slices", "history", "by_block", "top"))


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
    facts = tuple(
        (plain(k), _fact(k, v)) for k, v in evidence.items() if k not in _DRAWN and v is not None and not isinstance(v, list | dict)
    )
    slices = evidence.get("slices") or ()
    return Shown(summary(decision), facts, tuple(s for s in slices if isinstance(s, Mapping)), _picture(evidence))


def _fact(key: str, value: Any) -> str:
    if key.endswith("_us") and isinstance(value, int):
        return day(value)
    return (
        number(value, 4)
        if isinstance(value, float)
        else number(value)
        if isinstance(value, int)
        else plain(value)
        if key == "outcome"
        else str(value)
    )


def summary(decision: Mapping[str, Any]) -> str:
    """One line: the recorded reason, or the effect with its interval."""
    evidence: Mapping[str, Any] = decision.get("evidence") or {}
    if evidence.get("reason"):
        return str(evidence["reason"])
    if evidence.get("effect") is not None:
        within = (
            f", {signed(evidence['low'])} to {signed(evidence['high'])}"
            if evidence.get("low") is not None and evidence.get("high") is not None
            else ""
        )
        return f"{plain(evidence.get('metric', 'effect'))} {signed(evidence['effect'])}{within}, n {number(evidence.get('n'))}"
    if evidence.get("method"):
        return str(evidence["method"])
    return ", ".join(f"{plain(k)} {v}" for k, v in list(evidence.items())[:4] if not isinstance(v, list | dict))


def _picture(evidence: Mapping[str, Any]) -> Markup:
    if evidence.get("effect") is None:
        return Markup("")
    margin = evidence.get("margin") or 0.0
    return interval(
        evidence["effect"],
        evidence.get("low"),
        evidence.get("high"),
        blocks(evidence),
        margin=margin,
        unit=plain(evidence.get("metric", "log_loss")),
    )


def blocks(evidence: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(name, mean difference) of each block: [block number, rows, difference] lists, or mappings."""
    found = evidence.get("differences") or evidence.get("blocks")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    length = _length(evidence.get("block"))
    out = []
    for item in found:
        if isinstance(item, Mapping) and item.get("effect") is not None:
            out.append((str(item.get("block", item.get("day", ""))), float(item["effect"])))
        elif isinstance(item, Sequence) and len(item) >= 3 and item[2] is not None:
            out.append((day(int(item[0] * length)), float(item[2])))
    return out


def _length(block: Any) -> int:
    try:
        return parse_duration(str(block)) if block else DAY_US
    except InvalidError:
        return DAY_US


def looks(evidence: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The successive looks of a confidence sequence: {"at_us", "n", "effect", "low", "high"}."""
    found = (evidence or {}).get("looks") or (evidence or {}).get("history") or []
    return [look for look in found if isinstance(look, Mapping) and look.get("effect") is not None]
