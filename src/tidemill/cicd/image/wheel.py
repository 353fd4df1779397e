"""The wheel of an installed package, made again from its files: an image gets the Tidemill that built it, published or not.

Source: the binary distribution format (PyPA specifications): a zip of the package and its `.dist-info`, with a RECORD of digests.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from importlib.resources import files
from pathlib import Path

_EPOCH = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: tidemill\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(package: str, into: Path) -> Path:
    """Write the wheel of a pure Python package, the same bytes for the same files."""
    found = metadata.distribution(package)
    info = f"{package}-{found.version}.dist-info"
    root = Path(str(files(package)))
    parts = {
        f"{package}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    parts |= {f"{info}/{name}": text.encode() for name in ("METADATA", "entry_points.txt") if (text := found.read_text(name)) is not None}
    parts[f"{info}/WHEEL"] = _WHEEL.encode()
    record = "".join(f"{name},sha256={_digest(body)},{len(body)}\n" for name, body in parts.items()) + f"{info}/RECORD,,\n"
    path = into / f"{package}-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in {**parts, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), body, zipfile.ZIP_DEFLATED)
    return path


def _digest(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
