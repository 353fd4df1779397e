"""A function of a repository with all it needs, as source text."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

from tidemill.core.errors import InvalidError

_BUILTINS = frozenset(dir(builtins))


class Module:
    """The module-level definitions of a file, by name."""

    def __init__(self, path: Path, repository: Path) -> None:
        self.path = path
        self._repository = repository
        self._defined: dict[str, ast.stmt] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for name in _names_of(node):
                self._defined[name] = node

    def function(self, name: str) -> list[tuple[str, str]]:
        """(name, source) of what `name` needs, in an order that runs, itself last; decorators are left out.

        Raises:
            InvalidError: it needs something that cannot be taken along; says what.
        """
        out: dict[str, str] = {}
        self._take(name, out, [])
        return list(out.items())

    def _take(self, name: str, out: dict[str, str], path: list[str]) -> None:
        if name in out or name in path:
            return
        node = self._defined.get(name)
        if node is None:
            raise InvalidError(f"{path[-1] if path else self.path.name} uses {name!r}, which {self.path.name} does not define")
        if isinstance(node, ast.Import | ast.ImportFrom):
            out[name] = self._import(node, name)
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            node.decorator_list = [] if not path else node.decorator_list
        for needed in sorted(_free(node)):
            if needed in self._defined or needed not in _BUILTINS:
                self._take(needed, out, [*path, name])
        out[name] = ast.unparse(node)

    def _import(self, node: ast.Import | ast.ImportFrom, name: str) -> str:
        alias = next(a for a in node.names if (a.asname or a.name.partition(".")[0]) == name)
        module = alias.name if isinstance(node, ast.Import) else node.module or ""
        top = module.partition(".")[0]
        if isinstance(node, ast.ImportFrom) and node.level:
            raise InvalidError(f"it imports {name!r} from the repository itself; put what it needs into {self.path.name}")
        if top == "feast" or (self._repository / f"{top}.py").exists() or (self._repository / top).is_dir():
            raise InvalidError(f"it imports {name!r} from {module!r}, which stays behind; put what it needs into {self.path.name}")
        kept = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(module, [alias], 0)
        return ast.unparse(kept)


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [a.asname or a.name.partition(".")[0] for a in node.names]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return [node.target.id]
    return []


def _free(node: ast.stmt) -> set[str]:
    """Names that a statement reads and does not bind itself: any name bound anywhere in a function counts as its own."""
    inner = [n for n in ast.walk(node) if n is not node or not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    read = {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bound = {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store | ast.Del)}
    bound |= {a.arg for n in ast.walk(node) if isinstance(n, ast.arguments) for a in _arguments(n)}
    bound |= {n.name for n in inner if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    bound |= {h.name for h in inner if isinstance(h, ast.ExceptHandler) and h.name}
    bound |= {a.asname or a.name.partition(".")[0] for n in inner if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    return read - bound if not isinstance(node, ast.Assign | ast.AnnAssign) else read


def _arguments(n: ast.arguments) -> list[ast.arg]:
    return [*n.posonlyargs, *n.args, *n.kwonlyargs, *([n.vararg] if n.vararg else []), *([n.kwarg] if n.kwarg else [])]
