"""The other side of a `Pool`: calls one function for each message. A script, for interpreters that have NumPy and no Tidemill.

Run as `worker.py IMPORT_FOLDER module:function MODEL_FOLDER`. A message is four bytes of length, a JSON header of that length, and for rows the
numbers: `{"rows": n, "numbers": [names], "texts": {name: [values]}}`, then n float64 a name. The answer is `{"rows": n}` and n float64, or
`{"error": text}`. The function takes the columns by name, NumPy arrays (nulls NaN; texts as objects with None), and, if it takes two arguments,
the folder with the model's files. What it prints goes to standard error.
"""

import importlib
import inspect
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO


def main() -> None:
    """Answer until standard input ends."""
    folder, target, files = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        import numpy  # noqa: F401

        function = find(folder, target)
        more = [Path(files)] if len(inspect.signature(function).parameters) > 1 else []
    except BaseException as error:  # noqa: BLE001 - the process boundary
        send(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    send(answers, {"ready": True})
    asked = sys.stdin.buffer
    while head := asked.read(4):
        header = json.loads(asked.read(*struct.unpack("<I", head)))
        try:
            body = answer(function, more, header, asked.read(8 * header["rows"] * len(header["numbers"])))
        except Exception as error:  # noqa: BLE001 - whatever the function raises is said on the other side
            send(answers, {"error": f"{type(error).__name__}: {error}"})
        else:
            send(answers, {"rows": header["rows"]}, body)


def find(folder: str, target: str) -> Any:
    """The function that `module:function` names, defined in that module, which lies in `folder`."""
    sys.path.insert(0, folder)
    name, _, attribute = target.partition(":")
    module = importlib.import_module(name)
    if not Path(str(module.__file__)).resolve().is_relative_to(Path(folder).resolve()):
        raise ImportError(f"{name} is {module.__file__}, which is not in {folder}")
    function = getattr(module, attribute)
    if not inspect.isfunction(function) or function.__module__ != name:
        raise TypeError(f"{target} is no function that {name} defines")
    return function


def answer(function: Any, more: list[Path], header: dict[str, Any], numbers: bytes) -> bytes:
    """Call the function; its scores as float64 bytes."""
    import numpy as np

    rows = header["rows"]
    columns: dict[str, Any] = dict(zip(header["numbers"], np.frombuffer(bytearray(numbers)).reshape(-1, rows), strict=True))
    columns |= {name: np.array([*values, None], dtype=object)[:-1] for name, values in header["texts"].items()}
    scores = np.asarray(function({name: columns[name] for name in header["order"]}, *more), dtype=np.float64)
    if scores.shape != (rows,):
        raise ValueError(f"the function returned an array of shape {scores.shape} for {rows} rows; one score a row is asked for")
    return scores.tobytes()


def send(stream: BinaryIO, header: dict[str, Any], body: bytes = b"") -> None:
    """Write one message."""
    text = json.dumps(header).encode()
    stream.write(struct.pack("<I", len(text)) + text + body)
    stream.flush()


if __name__ == "__main__":
    main()
