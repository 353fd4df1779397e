"""From the JSON and CSV of several protocols to a `Call`: records, columns or unnamed rows of numbers, texts, booleans and nulls."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidemill.core.errors import InvalidError
from tidemill.serving import protocol
from tidemill.serving.http import TooLargeError
from tidemill.serving.plan import Plan
from tidemill.serving.protocol import Call

_LARGEST = 2**63 - 1
_SCALARS = (float, int, str, bool, type(None))
_decode = msgspec.json.Decoder().decode


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content encoding (gzip, deflate), of at most `limit` bytes."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise InvalidError(f"content-encoding {encoding!r} is not read; send gzip, deflate or none")
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        out = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidError(f"the body is not {encoding}: {error}") from error
    if len(out) > limit:
        raise TooLargeError(f"the unpacked body has more than {limit} bytes, the limit of this server; send fewer rows at once")
    if not stream.eof:
        raise InvalidError(f"the {encoding} body ends too early")
    return out


def json_object(body: bytes, *, nan: bool = False) -> dict[str, Any]:
    """A JSON object. `nan`: whether NaN, which is no JSON, is read as null; such protocols exist."""
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not nan or b"NaN" not in body:
            raise InvalidError(protocol.no_json(body, error)) from error
        value = _with_nan(body)
    except RecursionError as error:
        raise InvalidError("the body is nested too deep") from error
    if not isinstance(value, dict):
        raise InvalidError(f"the body must be a JSON object, not {_kind(value)}")
    return value


def _with_nan(body: bytes) -> Any:
    def constant(name: str) -> None:
        if name != "NaN":
            raise InvalidError(f"the body has the value {name}; send a finite number, or null for a missing value")

    try:
        return json.loads(body, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidError):
            raise
        raise InvalidError(f"the body is not JSON: {error}") from error


def of_columns(plan: Plan, columns: Mapping[str, Any], name: str, max_rows: int, where: str) -> Call:
    """A call from values by column: lists of one length, each value a scalar or a list of one."""
    if not columns:
        raise InvalidError(f"{where} has no columns; send {', '.join(plan.needs)}, or all of {', '.join(plan.columns)}")
    flat = {column: _values(f"{where}.{column}", values) for column, values in columns.items()}
    lengths = {column: len(values) for column, values in flat.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidError(f"the columns of {where} have different lengths: {', '.join(f'{c} {n}' for c, n in lengths.items())}")
    tensors = [protocol.Fp64(column, [len(values)], values) for column, values in flat.items()]
    return protocol.understood(protocol.Request(tensors, name), plan, max_rows=max_rows)  # type: ignore[arg-type]


def of_split(plan: Plan, value: Any, name: str, max_rows: int, where: str) -> Call:
    """A call from a data frame as `to_dict("split")` writes it; without columns, rows are in the order of the model's inputs."""
    if not isinstance(value, dict) or "data" not in value or value.keys() - {"columns", "data", "index"}:
        raise InvalidError(f"{where} must be an object with columns, data and maybe index")
    columns = listed(value["columns"], f"{where}.columns") if "columns" in value else None
    if columns is not None and not all(isinstance(column, str) for column in columns):
        raise InvalidError(f"{where}.columns must be texts, the names of the columns")
    return of_rows(plan, listed(value["data"], f"{where}.data"), name, max_rows, f"{where}.data", columns)


def listed(value: Any, where: str) -> list[Any]:
    """The value, which has to be a list."""
    if not isinstance(value, list):
        raise InvalidError(f"{where} must be a list, not {_kind(value)}")
    return value


def with_parameters(call: Call, parameters: Any, where: str) -> Call:
    """The call with what a protocol's parameters say: `at`, where the server allows it. Others are refused, for none would be honoured."""
    if parameters is None:
        return call
    if not isinstance(parameters, dict):
        raise InvalidError(f"{where} must be an object")
    if unknown := sorted(parameters.keys() - {"at"}):
        raise InvalidError(f"{where}.{unknown[0]} is not a parameter of this server, whose models take none; it reads {where}.at")
    if "at" in parameters and not isinstance(parameters["at"], str):
        raise InvalidError(f"{where}.at is an ISO 8601 text")
    call.at = parameters.get("at")
    return call


def utf8(body: bytes) -> str:
    """The body as text."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidError(f"the body is not UTF-8: {error.reason}") from error


def json_lines(body: bytes) -> list[Any]:
    """One JSON value a line."""
    out = []
    for i, line in enumerate(body.splitlines()):
        if line.strip():
            try:
                out.append(_decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidError(f"line[{i}] is not JSON: {error}") from error
    return out


def of_records(plan: Plan, records: Sequence[Any], name: str, max_rows: int, where: str, *, fill: bool = False) -> Call:
    """A call from rows that are objects. One with other columns than the first is refused, or, with `fill`, has nulls."""
    if not records:
        raise InvalidError(f"{where} is empty; send at least one row")
    first = records[0]
    if not isinstance(first, dict):
        raise InvalidError(f"{where}[0] is {_kind(first)}; each row is an object of columns")
    if len(records) > max_rows:
        raise InvalidError(f"{len(records)} rows in one request; send {max_rows} at most")
    names = dict.fromkeys(first)
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise InvalidError(f"{where}[{i}] is {_kind(record)}, and {where}[0] is an object")
        if record.keys() == first.keys():
            continue
        if fill:
            names |= dict.fromkeys(record)
        else:
            differ = sorted(set(record) ^ set(first))
            raise InvalidError(
                f"{where}[{i}] has other columns than {where}[0]: {', '.join(map(repr, differ))}; send null for a missing value"
            )
    return of_columns(plan, {column: [record.get(column) for record in records] for column in names}, name, max_rows, where)


def of_rows(plan: Plan, rows: Sequence[Any], name: str, max_rows: int, where: str, columns: Sequence[str] | None = None) -> Call:
    """A call from rows that are lists, in the order of `columns`, or of the model's inputs."""
    wanted = list(plan.columns) if columns is None else list(columns)
    if twice := sorted({c for c in wanted if wanted.count(c) > 1}):
        raise InvalidError(f"{where} names column {twice[0]!r} twice")
    if not rows:
        raise InvalidError(f"{where} is empty; send at least one row")
    if len(rows) > max_rows:
        raise InvalidError(f"{len(rows)} rows in one request; send {max_rows} at most")
    for i, row in enumerate(rows):
        values = row if isinstance(row, list) else [row]
        if len(values) != len(wanted):
            takes = "the columns are" if columns is not None else f"{plan.service.name} takes"
            raise InvalidError(f"{where}[{i}] has {len(values)} values; {takes} {len(wanted)}: {', '.join(wanted)}")
    table = [row if isinstance(row, list) else [row] for row in rows]
    return of_columns(plan, {c: [row[j] for row in table] for j, c in enumerate(wanted)}, name, max_rows, where)


def of_instances(plan: Plan, instances: Any, name: str, max_rows: int, where: str = "instances") -> Call:
    """A call from a list of rows: objects, lists, scalars (for a model of one input), or objects with a list `features`."""
    if not listed(instances, where):
        raise InvalidError(f"{where} is empty; send at least one row")
    single = list(instances[0]) == ["b64"] and "b64" not in plan.known if isinstance(instances[0], dict) else True
    if single:
        return of_rows(plan, instances, name, max_rows, where)
    if list(instances[0]) == ["features"] and "features" not in plan.known:
        rows = [row["features"] if isinstance(row, dict) and list(row) == ["features"] else row for row in instances]
        return of_rows(plan, rows, name, max_rows, where)
    return of_records(plan, instances, name, max_rows, where)


def of_csv(plan: Plan, text: str, name: str, max_rows: int, texts: frozenset[str], *, header: bool | None = None) -> Call:
    """A call from CSV. The first line is a header when `header` says so, or, with None, when it names a column of the service and no number.

    Cells are numbers except in the columns `texts`; an empty cell is null.
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise InvalidError(f"the body is not CSV: {error}") from error
    if not lines:
        raise InvalidError("the body is empty; send at least one line of CSV")
    if header if header is not None else plan.known.intersection(lines[0]) and not any(map(_is_number, lines[0])):
        names, lines = lines[0], lines[1:]
    else:
        names = list(plan.columns)
    texts |= {plan.service.key}
    rows = [[_cell(cell, c in texts) for cell, c in zip(line, names, strict=False)] + line[len(names) :] for line in lines]
    return of_rows(plan, rows, name, max_rows, "csv", names)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cell(cell: str, text: bool) -> Any:
    if cell == "" or (not text and cell.lower() == "nan"):
        return None
    if text:
        return cell
    try:
        number = float(cell)
    except ValueError:
        return cell
    if number in (float("inf"), float("-inf")):
        raise InvalidError(f"the CSV has the value {cell}; send finite numbers, or an empty cell for a missing value")
    return number


def text_of(value: Any, where: str) -> Any:
    """A scalar, with TensorFlow Serving's `{"b64": …}` read as the text that it stands for."""
    if not isinstance(value, dict) or list(value) != ["b64"]:
        return value
    try:
        return base64.b64decode(value["b64"], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, TypeError, ValueError) as error:
        raise InvalidError(f"{where} is not base64 of UTF-8 text: {error}") from error


def _values(where: str, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise InvalidError(f"{where} must be a list with one value a row, not {_kind(values)}")
    return [_scalar(where, i, value) for i, value in enumerate(values)]


def _scalar(where: str, i: int, value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    value = text_of(value, where)
    if not isinstance(value, _SCALARS):
        raise InvalidError(f"{where}[{i}] is {_kind(value)}; a column takes numbers, texts, booleans and null")
    if isinstance(value, int) and not -_LARGEST - 1 <= value <= _LARGEST:
        raise InvalidError(f"{where}[{i}] is a whole number of more than 64 bits")
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise InvalidError(f"{where}[{i}] is out of range; send a finite number, or null for a missing value")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
