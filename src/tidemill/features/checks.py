"""What every offline store refuses, and in which words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from tidemill.core.aggregates import NUMERIC
from tidemill.core.definitions import FeatureView, Table
from tidemill.core.errors import InvalidError
from tidemill.features.ports import AT
from tidemill.versioning.ports import Scan


def check_spine(spine: pa.Schema, views: Sequence[FeatureView]) -> None:
    """Raise `InvalidError` for columns that a spine lacks or has already, and for times without a zone."""
    wanted = {AT, *(k for v in views for k in v.keys)}
    if missing := sorted(wanted - set(spine.names)):
        raise InvalidError(f"the spine lacks {', '.join(missing)}; it has {', '.join(spine.names)}")
    kind = spine.field(AT).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InvalidError(f"the spine's column {AT!r} is {kind}; it must be a timestamp with a time zone, timestamp[us, tz=UTC]")
    if twice := sorted(set(spine.names) & {c for v in views for c in v.columns}):
        raise InvalidError(f"the spine already has {', '.join(twice)}; rename the column or the feature")


def check_columns(table: Table, scan: Scan, wanted: Iterable[str]) -> None:
    """Raise `InvalidError` for columns that the table lacks and for times without a zone."""
    names = set(scan.schema.names)
    if missing := sorted({c for c in (*wanted, table.event_time, table.known_time, *table.keys) if c not in names}):
        raise InvalidError(f"table {table.name!r} has no column {', '.join(missing)}; it has {', '.join(scan.schema.names)}")
    for name in (table.event_time, table.known_time):
        kind = scan.schema.field(name).type
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise InvalidError(
                f"column {name!r} of table {table.name!r} is {kind}; it must be a timestamp with a time zone, for example timestamp[us, tz=UTC]"
            )


def check_types(table: Table, views: Sequence[FeatureView], schema: pa.Schema) -> None:
    """Raise `InvalidError` for features whose column has a type that they cannot be computed of."""
    for view in views:
        for a in view.aggregates:
            if not a.column or a.column not in schema.names:
                continue
            kind = schema.field(a.column).type
            if a.kind in NUMERIC and not is_number(kind):
                raise InvalidError(
                    f"column {a.column!r} of table {table.name!r} is {kind}; {view.full_name(a)} needs numbers "
                    "(latest, first, last and count take any column)"
                )
            if a.kind in ("distinct", "top") and not _countable(kind):
                raise InvalidError(
                    f"column {a.column!r} of table {table.name!r} is {kind}; {view.full_name(a)} counts texts, integers or booleans"
                )


def check_key(view: str, key: str, theirs: pa.DataType, mine: pa.DataType) -> None:
    """Raise `InvalidError` unless a key column of the table (`theirs`) and the spine's (`mine`) can be compared."""
    one, other = plain_key(mine), plain_key(theirs)
    if one != other and not pa.types.is_null(one) and not pa.types.is_null(other):
        raise InvalidError(f"key {key!r} of feature view {view!r} is {theirs} in its table and {mine} in the spine; cast one of the two")


def plain_key(kind: pa.DataType) -> pa.DataType:
    """The type as which keys are compared: integers of any width are alike, and so are texts."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(kind):
        return pa.int64()
    return pa.string() if pa.types.is_large_string(kind) else kind


def is_number(kind: pa.DataType) -> bool:
    """Whether values of a type can be summed."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def not_a_number(expression: str, name: str, kind: pa.DataType) -> InvalidError:
    """The error for an expression over something else than numbers."""
    return InvalidError(f"the expression {expression!r} computes with {name}, which is {kind}; use an on-demand feature instead")


def _countable(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )
