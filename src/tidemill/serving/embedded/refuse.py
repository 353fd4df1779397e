"""Refuse artifacts that could run code when loaded, by what they hold and whatever they are called."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickletools
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tidemill.core.errors import RefusedError

_HEAD = 1 << 16
_MEMBERS = 10_000
_PICKLE_NAMES = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")
_RUNS_CODE = frozenset({"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4"})
_PROTOCOL = tuple(bytes([0x80, n]) for n in range(1, 6))
_DATA_ONLY = (b"\x93NUMPY", b"\x89HDF")


def refuse_code(folder: Path) -> None:
    """Look into every file below `folder`; a pickle (bare, compressed, or inside a zip or tar) is a `RefusedError` naming it.

    Nothing is unpickled: opcodes are only read. Links are refused too, for they point out of what the digest covers.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise RefusedError(f"{name} in the model folder is a link; pack the file itself")
        if path.is_file():
            with path.open("rb") as file:
                _check(name, file, depth=0)


def _check(name: str, file: IO[bytes], *, depth: int) -> None:
    head = file.read(_HEAD)
    if name.lower().endswith(_PICKLE_NAMES) or is_pickle(head):
        raise RefusedError(
            f"{name} is a pickle, and loading a pickle runs whatever code it holds; export the model to ONNX or its library's own format"
        )
    if head.startswith(b"\x93NUMPY") and b"'descr': '|O'" in head[:512]:
        raise RefusedError(f"{name} is a NumPy file of Python objects, which is a pickle inside; save plain numbers")
    file.seek(0)
    for member, inner in _inside(name, head, file):
        if depth >= 2:
            raise RefusedError(f"{name} nests archives too deep to be inspected; pack the files themselves")
        _check(f"{name}:{member}", inner, depth=depth + 1)


def is_pickle(head: bytes) -> bool:
    """Whether these first bytes of a file are a pickle's, of any protocol; nothing is executed."""
    if head.startswith(_PROTOCOL):
        return True
    if head.startswith(_DATA_ONLY) or not head or head[:1] not in b"(]})cilN":
        return False
    dangerous = False
    try:
        for opcode, _argument, _position in pickletools.genops(head):
            dangerous = dangerous or opcode.name in _RUNS_CODE
    except (ValueError, UnicodeDecodeError, IndexError):
        return dangerous and len(head) >= _HEAD
    return True


def _inside(name: str, head: bytes, file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Members of an archive, or the start of what is compressed."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _zip(name, file)
    elif head[257:262] == b"ustar":
        yield from _tar(name, file)
    elif (opened := _unpacked(head)) is not None:
        yield "content", io.BytesIO(opened)


def _zip(name: str, file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        with zipfile.ZipFile(file) as archive:
            if len(archive.namelist()) > _MEMBERS:
                raise RefusedError(f"{name} holds more than {_MEMBERS} files; that is no model")
            for info in archive.infolist():
                with archive.open(info) as member:
                    yield info.filename, io.BytesIO(member.read(_HEAD))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error, EOFError) as error:
        raise RefusedError(f"{name} looks like a zip archive that cannot be inspected: {error}") from error


def _tar(name: str, file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for count, info in enumerate(archive):
                if count >= _MEMBERS:
                    raise RefusedError(f"{name} holds more than {_MEMBERS} files; that is no model")
                member = archive.extractfile(info) if info.isfile() else None
                if member is not None:
                    yield info.name, io.BytesIO(member.read(_HEAD))
    except tarfile.TarError as error:
        raise RefusedError(f"{name} looks like a tar archive that cannot be inspected: {error}") from error


def _unpacked(head: bytes) -> bytes | None:
    """The first bytes of compressed content (gzip, zlib, bzip2, xz; joblib writes all of them), None if it is not compressed."""
    try:
        if head.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(head, _HEAD)
        if head[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
            return zlib.decompressobj().decompress(head, _HEAD)
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(head, _HEAD)
        if head.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
            return lzma.LZMADecompressor().decompress(head, _HEAD)
    except (zlib.error, OSError, lzma.LZMAError, gzip.BadGzipFile, ValueError):
        return None
    return None
