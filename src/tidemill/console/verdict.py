"""What a comparison of policies comes to, in one sentence and in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Policy = dict[str, Any]


def compared(policies: Sequence[Mapping[str, Any]]) -> list[Policy]:
    """Each policy with `gain`: how much lower its log loss is than that of the one that never retrains (None for that one)."""
    base = next((p["log_loss"] for p in policies if p["name"] == "never"), None)
    return [
        {
            **p,
            "gain": None if base is None or p["log_loss"] is None or p["name"] == "never" else base - p["log_loss"],
            "lead": _against(p, policies),
        }
        for p in policies
    ]


def _against(policy: Mapping[str, Any], policies: Sequence[Mapping[str, Any]]) -> int:
    """In how many weeks this policy served better than every other."""
    others = [{w["week_us"]: w["log_loss"] for w in p["weeks"]} for p in policies if p is not policy]
    own = {w["week_us"]: w["log_loss"] for w in policy["weeks"]}
    return sum(all(loss < other.get(week, 9e9) for other in others) for week, loss in own.items() if loss is not None)


def best(policies: Sequence[Policy]) -> str:
    """The name of the policy with the least log loss, "" when none has one."""
    known = [p for p in policies if p["log_loss"] is not None]
    return str(min(known, key=lambda p: p["log_loss"])["name"]) if known else ""


def verdict(policies: Sequence[Policy], primary: str) -> str:
    """One sentence for the top of the page."""
    mine = next((p for p in policies if p["name"] == primary), None)
    if mine is None or mine["gain"] is None:
        return ""
    word = "lower" if mine["gain"] >= 0 else "higher"
    said = f"Retraining {primary.replace('-', ' ')} served a log loss {abs(mine['gain']):.3f} {word} than never retraining"
    others = [p for p in policies if p["name"] not in (primary, "never") and p["trainings"]]
    if not others:
        return f"{said}."
    rival = min(others, key=lambda p: p["log_loss"] if p["log_loss"] is not None else 9.0)
    if rival["trainings"] == mine["trainings"]:
        return f"{said}, with as many trainings as {rival['name']}."
    fewer = "fewer" if mine["trainings"] < rival["trainings"] else "more"
    return f"{said}, with {abs(rival['trainings'] - mine['trainings'])} {fewer} trainings than {rival['name']}."
