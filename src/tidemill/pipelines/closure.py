"""What a step's result depends on besides its inputs: its code, the project code it reaches, and the versions of packages.

The closure is found from syntax: every name that a function, a class or a decorator looks up is resolved in the module it lives in, attribute
chains are followed through modules, and what is found is walked in turn. Code of the project counts by content, installed packages by
version, the standard library by nothing. Names that are only built at run time (`getattr(module, text)`) are not seen.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from tidemill.core.digests import of_json
from tidemill.core.errors import InvalidError
from tidemill.pipelines import origins, sources, values
from tidemill.pipelines.ports import Step

_MISSING = object()
_MEMO: WeakKeyDictionary[FunctionType, tuple[CodeType, _Walk]] = WeakKeyDictionary()


def closure(function: Callable[..., Any]) -> dict[str, dict[str, str]]:
    """Digests of the project code that `function` reaches (`code`, by `file.py:name`) and versions of the packages (`packages`).

    Answers are remembered per function until a global that it reaches is bound to something else or a mutable constant changes.
    """
    if isinstance(function, Step):
        function = function.function
    known = _MEMO.get(function) if isinstance(function, FunctionType) else None
    if known and isinstance(function, FunctionType) and known[0] is function.__code__ and known[1].holds():
        return {"code": known[1].code, "packages": known[1].packages}
    walk = _Walk()
    walk.visit(function, "function")
    walk.code, walk.packages = dict(sorted(walk.code.items())), dict(sorted(walk.packages.items()))
    if isinstance(function, FunctionType):
        _MEMO[function] = (function.__code__, walk)
    return {"code": walk.code, "packages": walk.packages}


def fingerprint(value: Any, where: str) -> Any:
    """A JSON value that stands for a parameter: equal values, equal fingerprints; functions count by their closure.

    Raises:
        InvalidError: the value has no content that could be told (a connection, a generator …); `where` says which one it is.
    """

    def unknown(odd: Any) -> Any:
        raise InvalidError(
            f"{where} is a {type(odd).__name__}, which cannot be part of a cache key; pass numbers, texts, lists, dicts, "
            "dataclasses, functions or the outputs of other steps"
        )

    return values.describe(value, code=closure, unknown=unknown)


class _Walk:
    """One walk over what a function reaches."""

    def __init__(self) -> None:
        self.code: dict[str, str] = {}
        self.packages: dict[str, str] = {}
        self._seen: dict[int, Any] = {}
        self._bindings: list[tuple[Mapping[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._constants: list[tuple[str, Any]] = []

    def holds(self) -> bool:
        """Whether everything that was found is still what its names are bound to."""
        return (
            all(space.get(name, _MISSING) is found for space, name, found in self._bindings)
            and all(_content(cell) is found for cell, found in self._cells)
            and all(self.code.get(name) == _constant(value) for name, value in self._constants)
        )

    def visit(self, found: Any, name: str) -> None:
        """Take in a function, class, module or constant that is called `name`."""
        if id(found) in self._seen:
            return
        self._seen[id(found)] = found  # kept alive, so that no other object can have its id
        if isinstance(found, Step):
            self.visit(found.function, name)
        elif isinstance(found, partial):
            self._function(found.func, name)
            self._value(found.args, f"{name} arguments")
            self._value(found.keywords, f"{name} keywords")
        elif isinstance(found, MethodType):
            self.visit(found.__func__, name)
            self.visit(found.__self__, name)
        elif isinstance(found, ModuleType):
            self._module(found)
        elif isinstance(found, type):
            self._class(found)
        elif callable(found) and hasattr(found, "__qualname__"):
            self._function(found, name)
        else:
            self._value(found, name)

    def _foreign(self, module: str | None) -> bool:
        """Note the version of a module that is not the project's; False when it is."""
        origin = origins.of_module(module)
        if origin == "project" or module is None:
            return module is None
        if origin == "package" and (found := origins.package_version(module)):
            self.packages[found[0]] = found[1]
        elif origin == "tidemill" and not module.startswith(("tidemill.pipelines", "tidemill.core")):
            stage, version = origins.stage_version(module)
            self.packages[stage] = version
        return True

    def _function(self, found: Any, name: str) -> None:
        if not isinstance(found, FunctionType):
            self._foreign(getattr(found, "__module__", None))
            return
        if origins.of_file(found.__code__.co_filename) != "project" and self._foreign(found.__module__):
            self._wrapped(found)
            return
        digest, node = sources.of_function(found)
        self.code[f"{origins.short_path(found.__code__.co_filename)}:{found.__code__.co_qualname}"] = digest
        names = sources.global_names(found.__code__)
        for free, cell in zip(found.__code__.co_freevars, found.__closure__ or (), strict=True):
            self._cells.append((cell, _content(cell)))
            if _content(cell) is not _MISSING:
                self.visit(_content(cell), f"{name}.{free}")
        if node is None:
            for looked in sorted(names & found.__globals__.keys()):
                self._chain([looked], found.__globals__, name)
            for default in (*(found.__defaults__ or ()), *(found.__kwdefaults__ or {}).values()):
                self.visit(default, f"{name} default")
        else:
            self._syntax(node, found.__globals__, names, name)
        self._wrapped(found)

    def _wrapped(self, found: FunctionType) -> None:
        """Go on to the function behind a decorator's wrapper, whoever's the wrapper is."""
        inner = getattr(found, "__wrapped__", None)
        if inner is not None:
            self.visit(inner, getattr(inner, "__qualname__", "wrapped"))

    def _class(self, found: type) -> None:
        if self._foreign(found.__module__):
            return
        digest, node = sources.of_class(found)
        path = inspect.getfile(found) if node is not None else f"{found.__module__}.py"
        self.code[f"{origins.short_path(path) if node is not None else path}:{found.__qualname__}"] = digest
        for base in found.__bases__:
            self.visit(base, base.__name__)
        space = vars(importlib.import_module(found.__module__))
        if node is not None:
            self._syntax(node, space, None, found.__name__)
            return
        for name, member in vars(found).items():
            if isinstance(member, FunctionType | staticmethod | classmethod):
                self.visit(getattr(member, "__func__", member), f"{found.__name__}.{name}")

    def _module(self, found: ModuleType) -> None:
        if not self._foreign(found.__name__) and found.__file__:
            with open(found.__file__, "rb") as file:  # noqa: PTH123
                self.code[f"{origins.short_path(found.__file__)}:*"] = _constant(file.read())

    def _value(self, found: Any, name: str) -> None:
        """A constant: by content where it has some that can be told, else by its type."""
        if type(found).__module__.partition(".")[0] not in ("builtins", "datetime") and not self._foreign(type(found).__module__):
            self.visit(type(found), type(found).__name__)
        self.code[f"constant {name}"] = _constant(found, self.visit)
        if not isinstance(found, str | int | float | bool | bytes | None):
            self._constants.append((f"constant {name}", found))

    def _syntax(self, node: sources.Definition, space: Mapping[str, Any], names: set[str] | None, owner: str) -> None:
        """Resolve what a definition looks up: in its body (only `names`, if given), its decorators and its defaults."""
        outside: list[ast.AST] = []
        if not isinstance(node, ast.Lambda):
            outside += node.decorator_list
        if not isinstance(node, ast.ClassDef):
            outside += [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        for expression in outside:
            self._lookups(expression, space, None, owner)
        body = node.body if isinstance(node.body, list) else [node.body]
        for statement in body:
            self._lookups(statement, space, names, owner)

    def _lookups(self, node: ast.AST, space: Mapping[str, Any], names: set[str] | None, owner: str) -> None:
        chain = _attribute_chain(node)
        if chain:
            if names is None or chain[0] in names:
                self._chain(chain, space, owner)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node, space)
        for child in ast.iter_child_nodes(node):
            self._lookups(child, space, names, owner)

    def _chain(self, chain: list[str], space: Mapping[str, Any], owner: str) -> None:
        """Follow `a.b.c` from a module's names through modules to what it means, and visit that."""
        name, found = chain[0], space.get(chain[0], _MISSING)
        if found is _MISSING:
            return
        self._bindings.append((space, name, found))
        for attribute in chain[1:]:
            if not isinstance(found, ModuleType) or origins.of_module(found.__name__) in ("package", "standard"):
                break
            inner = getattr(found, attribute, _MISSING)
            if inner is _MISSING:
                break
            self._bindings.append((vars(found), attribute, vars(found).get(attribute, _MISSING)))
            name, found = attribute, inner
        if isinstance(found, ModuleType) and origins.of_module(found.__name__) == "tidemill":
            return
        file = space.get("__file__")
        self.visit(found, f"{origins.short_path(str(file))}:{name}" if file else f"{owner}.{name}")

    def _import(self, node: ast.Import | ast.ImportFrom, space: Mapping[str, Any]) -> None:
        """Imports inside of functions: the project's are imported and visited, others count by version."""
        base = ""
        if isinstance(node, ast.ImportFrom):
            base = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), str(space.get("__package__") or ""))
                if node.level
                else str(node.module)
            )
        for module in [base] if base else [alias.name for alias in node.names]:
            try:
                loaded = importlib.import_module(module)
            except ImportError:
                continue
            if self._foreign(loaded.__name__):
                continue
            for alias in node.names if base else ():
                self._chain([alias.name], vars(loaded), module)
            if not base:
                self.visit(loaded, module)


def _attribute_chain(node: ast.AST) -> list[str]:
    """`["a", "b"]` for the expression `a.b`, and nothing for what does not start at a name that is read."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        return [node.id, *reversed(names)]
    return []


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _constant(value: Any, visit: Callable[[Any, str], None] = lambda _found, _name: None) -> str:
    """Digest of a constant's content; `visit` is called with functions and classes inside. What cannot be told (a logger) counts by type."""

    def unknown(odd: Any) -> Any:
        body: Any = None
        if origins.of_module(type(odd).__module__) == "project" and hasattr(odd, "__dict__") and id(odd) not in open_:
            open_.add(id(odd))
            body = describe(vars(odd))
        return {"type": f"{type(odd).__module__}.{type(odd).__qualname__}", "body": body}

    def code(function: Any) -> Any:
        visit(function, getattr(function, "__qualname__", "function"))
        return {"function": getattr(function, "__qualname__", getattr(function, "name", ""))}

    open_: set[int] = set()
    describe = partial(values.describe, code=code, unknown=unknown)
    return of_json(describe(value))[7:23]
