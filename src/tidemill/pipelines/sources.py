"""Digests of functions and classes that comments, docstrings and formatting do not change.

A function is found in its file's syntax tree and digested without positions and docstrings. The tree is trusted only if compiling the file
gives the very code object that is loaded; a file edited after it was imported does not. Then the bytecode is digested instead.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


@dataclass(frozen=True, slots=True)
class Source:
    """What a file defines: syntax by (first line, qualified name), classes by qualified name, code objects by (first line, qualified name)."""

    functions: dict[tuple[int, str], list[Definition]] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    codes: dict[tuple[int, str], list[CodeType]] = field(default_factory=dict)


def of_function(function: FunctionType) -> tuple[str, Definition | None]:
    """Digest of a function, and its syntax when that is what was digested."""
    code = function.__code__
    source = _read(code.co_filename)
    place = (code.co_firstlineno, code.co_qualname)
    if source and len(found := source.functions.get(place, [])) == 1 and source.codes.get(place) == [code]:
        return _digest(_normal(found[0])), found[0]
    return _digest(repr(_bytecode(code))), None


def of_class(cls: type) -> tuple[str, ast.ClassDef | None]:
    """Digest of a class, and its syntax when that is what was digested."""
    path = getattr(sys.modules.get(cls.__module__), "__file__", None)
    source = _read(path) if path else None
    node = source.classes.get(cls.__qualname__) if source else None
    own = [f for f in vars(cls).values() if isinstance(f, FunctionType) and f.__code__.co_filename == path]
    if node is not None and all(of_function(f)[1] is not None for f in own):
        return _digest(_normal(node)), node
    return _digest(repr([(k, _bytecode(v.__code__)) for k, v in vars(cls).items() if isinstance(v, FunctionType)])), None


def global_names(code: CodeType) -> set[str]:
    """Names that a code object and those inside it may look up as globals or attributes."""
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            names |= global_names(const)
    return names


def _read(path: str) -> Source | None:
    try:
        stat = os.stat(path)  # noqa: PTH116 - hot
    except OSError:
        return None
    return _parse(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _parse(path: str, _mtime_ns: int, _size: int) -> Source | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path as code objects have it
            text = file.read()
        tree = ast.parse(text)
        code = compile(text, path, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return None
    source = Source()
    _index(tree, "", source)
    for found in _codes(code):
        source.codes.setdefault((found.co_firstlineno, found.co_qualname), []).append(found)
    return source


def _index(node: ast.AST, prefix: str, source: Source) -> None:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.ClassDef):
            source.classes[prefix + child.name] = child
            inner = f"{prefix}{child.name}."
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            name = prefix + ("<lambda>" if isinstance(child, ast.Lambda) else child.name)
            decorators = [] if isinstance(child, ast.Lambda) else child.decorator_list
            line = decorators[0].lineno if decorators else child.lineno
            source.functions.setdefault((line, name), []).append(child)
            inner = f"{name}.<locals>."
        _index(child, inner, source)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            yield from _codes(const)


def _normal(node: ast.AST) -> str:
    """The syntax as text without positions and docstrings."""
    if not any(_documented(n) for n in ast.walk(node)):
        return ast.dump(node)
    return ast.dump(_Undocumented().visit(copy.deepcopy(node)))


def _documented(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None


class _Undocumented(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if _documented(node) and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = node.body[1:] or [ast.Pass()]
        return node


def _bytecode(code: CodeType) -> tuple[Any, ...]:
    consts = tuple(_bytecode(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    return code.co_code.hex(), consts, code.co_names, code.co_varnames, code.co_freevars


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
