"""What an archive of `torch.export` may hold before PyTorch itself is let near it.

`torch.export.load` trusts what it reads: it unpickles weights, constants and examples that say they are pickles, evaluates shapes as Python (by
SymPy), compiles guards, and looks up the function of each step by its name, below `torch` whatever it is. So an archive is let through only if it
is numbers and a graph of known operators: no pickle anywhere, no guard, shapes that are arithmetic, and steps that compute tensors.

Source: PyTorch's `torch/_export/serde` and `torch/export/pt2_archive`, versions 2.9 to 2.15.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from tidemill.core.errors import InvalidError, RefusedError

NATIVE, FLAVOR = "model.pt2", "tidemill_torch"
_MEMBERS = re.compile(
    r"[^/]+/(data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|archive_format|archive_version|version|byteorder|\.data/(version|serialization_id))"
)
_STEPS = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+(\.\w+)?|torch\.sym_\w+|math\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|getitem)"
)
_REFUSED_STEPS = re.compile(r"torch\.ops\.\w+\.(from_file|set_)\b")
_WORDS = (
    "Add Mul Pow Integer Rational Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv IntTrueDiv ModularIndexing Where Identity "
    "Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan Eq Ne Le Lt Ge Gt And Or Not true false True False"
)
_SHAPES = re.compile(
    r"(?:Symbol\('[a-z]\w{0,30}'(?:, [a-z_]+=(?:True|False))*\)"  # as SymPy writes a size that is known by name alone
    rf"|\b(?:[suz][a-z]{{0,9}}\d+|{'|'.join(_WORDS.split())})\b"
    r"|\b\d+\b|[\s+\-*/(),<>=&|~])*"
)
_LARGEST_GRAPH = 64 << 20


def check(native: bytes) -> None:
    """See that an archive is numbers and a graph of known operators; nothing of it is executed.

    Raises:
        InvalidError: the bytes are no such archive.
        RefusedError: it holds something else; says what.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(native)) as archive:
            _check(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise InvalidError(f"these bytes are no archive of torch.export: {error}") from error


def _check(archive: zipfile.ZipFile) -> None:
    graphs = 0
    for info in archive.infolist():
        name = info.filename
        if not _MEMBERS.fullmatch(name):
            raise RefusedError(f"the archive holds {name!r}, which tm.torch_model does not write (TorchScript and pickles are not read)")
        if name.endswith("sample_inputs/model.pt") and info.file_size:
            raise RefusedError(
                "the archive holds example inputs, which are a pickle; keep the model by tm.torch_model, which leaves them out"
            )
        if name.endswith(".json"):
            if info.file_size > _LARGEST_GRAPH:
                raise RefusedError(f"{name} has {info.file_size} bytes; {_LARGEST_GRAPH} at most")
            graphs += name.endswith("/models/model.json")
            _json(name, json.loads(archive.read(info)))
    if graphs != 1:
        raise RefusedError(f"the archive holds {graphs} graphs; one is the model")


def _json(name: str, document: Any) -> None:
    for node in _objects(document):
        if node.get("use_pickle"):
            raise RefusedError(f"{name} says that numbers are kept as pickles; export the model with plain, dense tensors")
        if node.get("guards_code"):
            raise RefusedError(f"{name} holds guards, which are Python; keep the model by tm.torch_model, which leaves them out")
        if "as_custom_obj" in node:
            raise RefusedError(f"{name} holds objects of its own classes; only tensors and numbers are read")
        step, shape = node.get("target"), node.get("expr_str")
        if isinstance(step, str) and (not _STEPS.fullmatch(step) or _REFUSED_STEPS.match(step)):
            raise RefusedError(f"the graph calls {step!r}; operators of torch.ops.aten and prims are run, but for those that touch files")
        if isinstance(shape, str) and not _SHAPES.fullmatch(shape):
            raise RefusedError(f"the graph has the shape {shape[:80]!r}, which is no arithmetic of sizes")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
