"""Table schemas as YAML files, one per table, that people read and edit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tidemill.core import digests
from tidemill.core.errors import ConfigError, ConflictError, InvalidError
from tidemill.validation.ports import ColumnRules, TableSchema

_SEAL = "# tidemill: as inferred "
_HEAD = "# What a batch of this table must satisfy to be published. Edit it: Tidemill never overwrites what you changed.\n"
_KINDS = ("number", "text", "boolean", "time")
_NUMBER = (int, float)
_Keys = Mapping[str, type | tuple[type, ...]]
_TABLE_KEYS: _Keys = {"table": str, "unique": list, "allow_new_columns": bool, "inferred_from": str, "columns": dict}
_COLUMN_KEYS: _Keys = {
    "kind": str,
    "required": bool,
    "null_fraction": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "domain": list,
    "outside": _NUMBER,
    "quantiles": dict,
}


class YamlSchemaStore:
    """A `SchemaStore` in a folder: `<table>.yaml`.

    The first line of a file that Tidemill wrote holds the digest of the rest; a file whose rest differs was edited.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[tuple[int, int], TableSchema]] = {}

    def find(self, table: str) -> TableSchema | None:
        path = self._path(table)
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_size)
        known = self._read.get(table)
        if known is None or known[0] != stamp:
            self._read[table] = known = (stamp, self._parse(path, table))
        return known[1]

    @staticmethod
    def _parse(path: Path, table: str) -> TableSchema:
        try:
            body = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path} is not YAML: {exc}") from exc
        return _Reader(path).schema(body, table)

    def save(self, schema: TableSchema, *, overwrite: bool = False) -> None:
        path = self._path(schema.table)
        if path.exists() and not overwrite and _edited(path.read_text(encoding="utf-8", errors="replace")):
            raise ConflictError(f"{path} was edited by hand; delete it, or overwrite on purpose, to infer the schema anew")
        text = _HEAD + yaml.safe_dump(_document(schema), sort_keys=False, allow_unicode=True, width=140)
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".yaml.part")
        draft.write_text(f"{_SEAL}{digests.of_bytes(text.encode())}\n{text}", encoding="utf-8")
        draft.replace(path)

    def _path(self, table: str) -> Path:
        if not table.replace("-", "_").isidentifier():
            raise InvalidError(f"{table!r} cannot name a schema file; use letters, digits, '_' and '-'")
        return self._folder / f"{table}.yaml"


def _edited(text: str) -> bool:
    seal, _, rest = text.partition("\n")
    return seal != _SEAL + digests.of_bytes(rest.encode())


def _document(schema: TableSchema) -> dict[str, Any]:
    out: dict[str, Any] = {"table": schema.table}
    if schema.unique:
        out["unique"] = list(schema.unique)
    if schema.allow_new_columns:
        out["allow_new_columns"] = True
    if schema.inferred_from:
        out["inferred_from"] = schema.inferred_from
    return out | {"columns": {rules.name: _rules(rules) for rules in schema.columns}}


def _rules(rules: ColumnRules) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": rules.kind}
    if not rules.required:
        out["required"] = False
    for key in ("null_fraction", "low", "high"):
        if (value := getattr(rules, key)) is not None:
            out[key] = value
    if rules.domain is not None:
        out["domain"] = list(rules.domain)
    if rules.outside:
        out["outside"] = rules.outside
    if rules.quantiles:
        out["quantiles"] = {rank: list(bounds) for rank, bounds in rules.quantiles.items()}
    return out


class _Reader:
    """Turns a document into a schema; every complaint names the file and the key."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def schema(self, body: Any, table: str) -> TableSchema:
        top = self._typed(body, "", _TABLE_KEYS)
        if top.get("table", table) != table:
            raise self._wrong("table", f"{table!r}, as the file is named", top["table"])
        columns = tuple(self._column(str(name), rules) for name, rules in top.get("columns", {}).items())
        unique = self._texts("unique", top.get("unique", []))
        for name in unique:
            if name not in {rules.name for rules in columns}:
                raise self._wrong("unique", "names of columns below", name)
        return TableSchema(table, columns, unique, top.get("allow_new_columns", False), top.get("inferred_from", ""))

    def _column(self, name: str, body: Any) -> ColumnRules:
        at = f"columns.{name}"
        rules = self._typed(body, at, _COLUMN_KEYS)
        if rules.get("kind") not in _KINDS:
            raise self._wrong(f"{at}.kind", f"one of {', '.join(_KINDS)}", rules.get("kind"))
        for share in ("null_fraction", "outside"):
            if share in rules and not 0 <= rules[share] <= 1:
                raise self._wrong(f"{at}.{share}", "a share from 0 to 1", rules[share])
        domain = self._texts(f"{at}.domain", rules["domain"]) if "domain" in rules else None
        quantiles = {str(rank): self._bounds(f"{at}.quantiles", rank, pair) for rank, pair in rules.get("quantiles", {}).items()}
        plain = {key: rules[key] for key in ("required", "null_fraction", "low", "high", "outside") if key in rules}
        return ColumnRules(name, rules["kind"], domain=domain, quantiles=quantiles, **plain)

    def _typed(self, body: Any, at: str, keys: _Keys) -> dict[str, Any]:
        """`body` as a mapping whose keys are known and whose values have the right types."""
        if not isinstance(body, dict):
            raise self._wrong(at or "the file", "a mapping", body)
        for key, value in body.items():
            name = f"{at}.{key}" if at else str(key)
            if key not in keys:
                raise ConfigError(f"{self._path}: unknown key {name!r}; known are {', '.join(keys)}")
            wanted = keys[key]
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                kinds = wanted if isinstance(wanted, tuple) else (wanted,)
                raise self._wrong(name, " or ".join(kind.__name__ for kind in kinds), value)
        return body

    def _texts(self, at: str, values: list[Any]) -> tuple[str, ...]:
        for value in values:
            if not isinstance(value, str):
                raise self._wrong(at, "texts (put quotes around what YAML reads as something else)", value)
        return tuple(values)

    def _bounds(self, at: str, rank: Any, pair: Any) -> tuple[float, float]:
        try:
            share, (low, high) = float(rank), pair
            if not 0 <= share <= 1 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high)):
                raise ValueError(rank)
        except (TypeError, ValueError):
            raise self._wrong(f"{at}.{rank}", "a rank from 0 to 1 with [low, high]", pair) from None
        return (low, high)

    def _wrong(self, key: str, expected: str, found: Any) -> ConfigError:
        return ConfigError(f"{self._path}: {key} must be {expected}, not {found!r}")
