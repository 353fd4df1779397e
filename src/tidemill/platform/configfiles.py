"""Comparing YAML files with the dataclasses that describe them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from tidemill.core.errors import ConfigError

_HYDRA_KEYS = {"defaults", "hydra"}


def check_files(conf: Path, root: type) -> None:
    """Compare every YAML file below `conf` with the dataclass `root`; raise `ConfigError` naming the first file and key that differ."""
    for path in sorted(conf.rglob("*.yaml")):
        name = f"{conf.name}/{path.relative_to(conf).as_posix()}"
        values = _read(path, name)
        group = "" if _packaged_globally(path) else path.relative_to(conf).parent.as_posix().strip(".")
        kind: Any = root
        for part in group.split("/") if group else []:
            hints = get_type_hints(kind) if is_dataclass(kind) else {}
            if part not in hints:
                raise ConfigError(f"{name}: there is no section {group!r}; known: {', '.join(_names(root))}")
            kind = hints[part]
        convert({k: v for k, v in values.items() if k not in _HYDRA_KEYS}, kind, where=name, prefix=group.replace("/", "."), partial=True)


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name} must hold keys and values, not a {type(values).__name__}")
    return values


def _packaged_globally(path: Path) -> bool:
    return path.read_text(encoding="utf-8").lstrip().startswith("# @package _global_")


def _names(kind: Any) -> list[str]:
    return [f.name for f in fields(kind)]


def convert(value: Any, kind: Any, *, where: str, prefix: str = "", partial: bool = False) -> Any:
    """Make `value` (plain YAML) the type `kind`.

    Args:
        value: mappings, lists, texts, numbers, booleans, None.
        kind: a dataclass or an annotation made of dataclasses, tuples, unions, literals and scalars.
        where: the file or override, for the message.
        prefix: the key so far, for the message.
        partial: only check what is there; required keys may be missing.

    Raises:
        ConfigError: an unknown key or a value of another type.
    """
    origin = get_origin(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(value, kind, where, prefix, partial)
    if origin in (Union, types.UnionType):
        return _union(value, kind, where, prefix, partial)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(value, "a list", where, prefix)
        item = get_args(kind)[0]
        return tuple(convert(v, item, where=where, prefix=f"{prefix}[{i}]") for i, v in enumerate(value))
    if origin is Literal:
        if value not in get_args(kind):
            raise _wrong(value, "one of " + ", ".join(map(str, get_args(kind))), where, prefix)
        return value
    return _scalar(value, kind, where, prefix)


def _dataclass(value: Any, kind: type, where: str, prefix: str, partial: bool) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(value, "keys and values", where, prefix)
    hints = get_type_hints(kind)
    made: dict[str, Any] = {}
    for key, item in value.items():
        full = f"{prefix}.{key}" if prefix else str(key)
        if key not in hints:
            near = get_close_matches(str(key), list(hints), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(hints)}"
            raise ConfigError(f"{where}: unknown key {full!r}; {hint}")
        made[key] = convert(item, hints[key], where=where, prefix=full, partial=partial)
    if partial:
        return made
    missing = [f.name for f in fields(kind) if f.name not in made and _required(f)]
    if missing:
        raise ConfigError(f"{where}: {prefix or 'the configuration'} lacks {', '.join(missing)}")
    return kind(**made)


def _required(field: Any) -> bool:
    from dataclasses import MISSING

    return field.default is MISSING and field.default_factory is MISSING


def _union(value: Any, kind: Any, where: str, prefix: str, partial: bool) -> Any:
    options = get_args(kind)
    if value is None and type(None) in options:
        return None
    (wanted,) = (o for o in options if o is not type(None))
    return convert(value, wanted, where=where, prefix=prefix, partial=partial)


def _scalar(value: Any, kind: type, where: str, prefix: str) -> Any:
    interpolated = isinstance(value, str) and "${" in value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if interpolated or (isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))):
        return value
    raise _wrong(
        value, {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}[kind.__name__], where, prefix
    )


def _wrong(value: Any, wanted: str, where: str, prefix: str) -> ConfigError:
    return ConfigError(f"{where}: {prefix or 'the file'} must be {wanted}, not {value!r}")
