"""Cache keys of nodes, and what changed between two of them in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from tidemill.core import digests
from tidemill.pipelines.closure import closure, fingerprint
from tidemill.pipelines.ports import Node, Ref, Step
from tidemill.pipelines.trace import refs, replace

PARTS = ("code", "packages", "inputs", "params", "versions")


def key_parts(node: Node, digest_of: Callable[[Ref], str], versions: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a node's cache key: code closure, package versions, input digests, parameters, external versions.

    Args:
        node: the node.
        digest_of: answers the digest of an earlier node's output (or item).
        versions: what the step's `versions` answered.
    """
    own = closure(node.step.function)
    code, packages = dict(own["code"]), dict(own["packages"])
    inputs: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for name, value in node.args.items():
        if isinstance(value, Step | FunctionType):
            reached = closure(value)
            code.update(reached["code"])
            packages.update(reached["packages"])
            params[name] = {"function": value.name if isinstance(value, Step) else value.__qualname__}
        elif next(refs(value), None) is not None:
            inputs[name] = replace(value, digest_of)
        else:
            params[name] = fingerprint(value, f"argument {name!r} of step {node.step.name!r}")
    outside = fingerprint(versions, f"versions of step {node.step.name!r}")
    return {"step": node.step.name, "code": code, "packages": packages, "inputs": inputs, "params": params, "versions": outside}


def cache_key(parts: Mapping[str, Any]) -> str:
    """The digest of the parts."""
    return digests.of_json(parts)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What changed from one key to the next, part by part, in words.

    Args:
        old: key parts of the last time.
        new: key parts of now.
        sources: the node behind each input, by parameter name, to name it.
    """
    said: list[str] = []
    for part in PARTS:
        before, after = old.get(part) or {}, new.get(part) or {}
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                said += _words(part, name, before.get(name), after.get(name), old.get("step", ""), (sources or {}).get(name, ""))
    return tuple(said)


def _words(part: str, name: str, before: Any, after: Any, step: str, source: str) -> list[str]:
    if part == "code":
        return [f"code: {_code(name, step)} {'changed' if before and after else 'is new' if after else 'is no longer used'}"]
    if part == "packages":
        return [f"package {name} {before or 'none'} → {after or 'none'}"]
    if part == "inputs":
        return [f"input {name}{f' (from {source})' if source else ''} changed"]
    if part == "params":
        return [f"parameter {name} {_short(before)} → {_short(after)}"]
    return list(_versions(name, before, after))


def _versions(name: str, before: Any, after: Any) -> list[str]:
    """External versions may be nested one level: `tables: {landings: 17}`."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return [f"{name}: {_short(before)} → {_short(after)}"]
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return [f"{name} {key}: {_short(before.get(key))} → {_short(after.get(key))}" for key in keys]


def _code(name: str, step: str) -> str:
    file, _, function = name.removeprefix("constant ").partition(":")
    if name.startswith("constant "):
        return f"the constant `{function or file}`{f' in {file}' if function else ''}"
    return f"the step itself in {file}" if function == step else f"helper `{function}` in {file}"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    return text if len(text) <= 40 else digests.of_json(value)[7:19] if isinstance(value, Mapping | list) else f"{text[:37]}…"
