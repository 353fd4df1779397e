"""The closure of a step has what the step's result depends on, and nothing else."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tidemill.core.errors import InvalidError
from tidemill.pipelines.closure import closure, fingerprint

Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Write modules of a project and import the one called `main`, as a new process would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(**sources: str) -> Any:
        for name, text in sources.items():
            path = tmp_path / f"{name.replace('_S_', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
                del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module("main")

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def code(function: Any) -> dict[str, str]:
    return closure(function)["code"]


def test_comments_docstrings_and_formatting_do_not_count(load: Load) -> None:
    one = code(load(main="def f(x):\n    return x + 1\n").f)
    two = code(load(main='# about f\n\n\ndef f(x):\n    """Doc."""\n    # more\n    return (x\n        + 1)\n').f)
    assert one == two
    assert one != code(load(main="def f(x):\n    return x + 2\n").f)


def test_helpers_are_followed_through_modules_packages_and_local_imports(load: Load) -> None:
    files = {
        "main": "import pack.deep\nfrom helpers import clean as c\n\n\ndef f(x):\n    from lazy import late\n    return c(x) + pack.deep.g(x) + late(x)\n",
        "helpers": "def clean(x):\n    return _inner(x)\n\n\ndef _inner(x):\n    return x\n\n\ndef unused(x):\n    return x\n",
        "lazy": "def late(x):\n    return x\n",
        "pack_S___init__": "",
        "pack_S_deep": "def g(x):\n    return x\n",
    }
    found = code(load(**files).f)
    assert set(found) == {"main.py:f", "helpers.py:clean", "helpers.py:_inner", "lazy.py:late", "pack/deep.py:g"}
    for name, old in (("helpers", "return x\n\n\ndef unused"), ("lazy", "return x"), ("pack_S_deep", "return x")):
        changed = code(load(**{**files, name: files[name].replace(old, old.replace("return x", "return -x"), 1)}).f)
        assert len({k for k in found if found[k] != changed[k]}) == 1
    same = code(load(**{**files, "helpers": files["helpers"].replace("def unused(x):\n    return x", "def unused(x):\n    return 7")}).f)
    assert same == found


def test_constants_count_by_content(load: Load) -> None:
    text = "import re\nLIMITS = {{'a': {}}}\nPATTERN = re.compile('x')\n\n\ndef f(x):\n    return LIMITS['a'], PATTERN\n"
    one, two = code(load(main=text.format(1)).f), code(load(main=text.format(2)).f)
    assert {k for k in one if one[k] != two[k]} == {"constant main.py:LIMITS"}
    assert "constant main.py:PATTERN" in one


def test_a_mutable_constant_that_is_changed_in_place_counts(load: Load) -> None:
    main = load(main="LIMITS = [1]\n\n\ndef f(x):\n    return LIMITS\n")
    before = code(main.f)
    assert code(main.f) == before
    main.LIMITS.append(2)
    assert code(main.f) != before


def test_a_rebound_global_counts(load: Load) -> None:
    main = load(main="LIMIT = 1\n\n\ndef f(x):\n    return LIMIT\n")
    before = code(main.f)
    main.LIMIT = 2
    assert code(main.f) != before


def test_functions_in_tables_are_followed(load: Load) -> None:
    text = "def a(x):\n    return x{}\n\n\nTABLE = {{'a': a}}\n\n\ndef f(x):\n    return TABLE['a'](x)\n"
    assert code(load(main=text.format("")).f) != code(load(main=text.format(" + 1")).f)


def test_classes_bases_decorators_defaults_and_closures_are_followed(load: Load) -> None:
    text = """
import functools

STEP = 1


def twice(function):
    @functools.wraps(function)
    def run(x):
        return function(function(x))
    return run


class Base:
    def base(self):
        return 1


class Scaler(Base):
    def scale(self, x):
        return x


def make(n):
    def inner(x):
        return x + n
    return inner


inner = make(3)


@twice
def f(x, step=STEP):
    return Scaler().scale(inner(x)) + step
"""
    found = code(load(main=text).f)
    for old, new in (
        ("STEP = 1", "STEP = 2"),
        ("function(function(x))", "function(x)"),
        ("return 1", "return 2"),
        ("        return x\n\n\ndef make", "        return -x\n\n\ndef make"),
        ("return x + n", "return x - n"),
        ("make(3)", "make(4)"),
        ("+ step", "- step"),
    ):
        assert code(load(main=text.replace(old, new)).f) != found, old


def test_recursion_and_cycles_end(load: Load) -> None:
    main = load(
        main="import other\n\n\ndef f(x):\n    return f(x - 1) if x else other.g(x)\n",
        other="import main\n\n\ndef g(x):\n    return main.f(x)\n",
    )
    assert set(code(main.f)) == {"main.py:f", "other.py:g"}


def test_packages_count_by_version_and_the_standard_library_does_not(load: Load) -> None:
    main = load(
        main="import json\nimport numpy as np\nfrom yaml import safe_load\n\n\ndef f(x):\n    return np.log(x), json.dumps(x), safe_load\n"
    )
    found = closure(main.f)
    assert set(found["packages"]) == {"numpy", "PyYAML"}
    assert set(found["code"]) == {"main.py:f"}


def test_tidemill_counts_by_version_and_stage(load: Load) -> None:
    main = load(main="import tidemill as tm\nfrom tidemill.training import encode\n\n\n@tm.step\ndef f(x):\n    return encode(x)\n")
    packages = closure(main.f)["packages"]
    assert set(packages) == {"tidemill.training"}
    assert packages["tidemill.training"].startswith("0.")


def test_a_file_that_was_edited_after_its_import_is_told_by_what_was_loaded(load: Load, tmp_path: Path) -> None:
    main = load(main="def f(x):\n    return x + 1\n")
    (tmp_path / "main.py").write_text("def f(x):\n    return x + 2\n")
    stale = code(main.f)
    assert stale != code(load(main="def f(x):\n    return x + 2\n").f)


def test_lambdas_and_objects_without_content_are_fine(load: Load) -> None:
    main = load(
        main="import logging\nimport threading\nLOG = logging.getLogger('x')\nLOCK = threading.Lock()\ng = lambda x: x\n\n\ndef f(x):\n    with LOCK:\n        LOG.info('x')\n    return g(x)\n"
    )
    assert code(main.f) == code(main.f)
    assert code(main.g)


def test_fingerprints_tell_values_apart(load: Load) -> None:
    values: list[Any] = [1, 1.0, "1", True, None, [1], {"a": 1}, {1: "a"}, float("nan"), float("inf"), b"1", {"1"}, Path("1")]
    prints = [repr(fingerprint(value, "x")) for value in values]
    assert len(set(prints)) == len(values)
    assert fingerprint({"a": 1, "b": 2}, "x") == fingerprint({"b": 2, "a": 1}, "x")


def test_a_value_without_content_is_refused_by_name() -> None:
    with pytest.raises(InvalidError, match=r"argument 'db'.*cache key"):
        fingerprint({"db": iter([1])}, "argument 'db'")


def test_partials_bound_methods_instances_and_whole_modules_are_followed(load: Load) -> None:
    text = """
import functools
import settings


class Scaler:
    def __init__(self, by):
        self.by = by

    def scale(self, x):
        return x * self.by


def power(x, n):
    return x ** n


square = functools.partial(power, n=2)
SCALER = Scaler(3)
scale = SCALER.scale


def f(x):
    return square(x) + scale(x) + use(settings)


def use(module):
    return module.LIMIT
"""
    files = {"main": text, "settings": "LIMIT = 1\n"}
    found = code(load(**files).f)
    for name, old, new in (
        ("main", "n=2", "n=3"),
        ("main", "x ** n", "x ** -n"),
        ("main", "Scaler(3)", "Scaler(4)"),
        ("main", "x * self.by", "x / self.by"),
        ("settings", "LIMIT = 1", "LIMIT = 2"),
    ):
        assert code(load(**{**files, name: files[name].replace(old, new)}).f) != found, old


def test_relative_imports_inside_of_functions_are_followed(load: Load) -> None:
    files = {
        "main": "from pack.deep import f\n",
        "pack_S___init__": "",
        "pack_S_deep": "def f(x):\n    from .near import g\n    import pack.far\n    return g(x) + pack.far.h(x)\n",
        "pack_S_near": "def g(x):\n    return x\n",
        "pack_S_far": "def h(x):\n    return x\n",
    }
    found = code(load(**files).f)
    assert {"pack/deep.py:f", "pack/near.py:g"} <= set(found)
    assert code(load(**{**files, "pack_S_far": "def h(x):\n    return -x\n"}).f) != found


def test_functions_without_a_file_count_by_their_bytecode() -> None:
    def made(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "__main__", "LIMIT": 3}
        exec(text, space)
        return space["f"]

    one, two = (code(made(f"def f(x, n=2):\n    return x + LIMIT {sign} n\n")) for sign in "+-")
    assert one != two
    assert one == code(made("def f(x, n=2):\n    return x + LIMIT + n  # the same\n"))
