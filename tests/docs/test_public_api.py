"""The words of a definition: few, lazy, and what DESIGN says they are."""

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import tidemill as tm

SOURCE = Path(tm.__file__)
NEEDS = {"sklearn": ("sklearn", "skops"), "torch": ("torch",), "xgboost": ("xgboost",)}


def literal_all() -> list[str]:
    for node in ast.parse(SOURCE.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    raise AssertionError("no literal __all__")


def test_at_most_25_names_written_out() -> None:
    assert literal_all() == tm.__all__
    assert len(tm.__all__) <= 25
    assert len(set(tm.__all__)) == len(tm.__all__)


def test_every_name_resolves_and_dir_shows_it() -> None:
    for name, home in tm._HOME.items():
        assert name in dir(tm)
        extra = home.split(".")[2] if home.startswith("tidemill.adapters.") else ""
        if extra and not all(map(find_spec, NEEDS.get(extra, ()))):
            with pytest.raises(ImportError, match=re.escape(f"pip install 'tidemill[{extra}]'")):
                getattr(tm, name)
        else:
            assert getattr(tm, name) is not None
    assert set(tm.__all__) <= set(tm._HOME)


def test_type_checkers_see_what_resolves_at_run_time() -> None:
    told = set(re.findall(r"^    from [\w.]+ import \w+ as (\w+)", SOURCE.read_text(), re.MULTILINE))
    assert told == set(tm._HOME)


def test_words_of_the_builtins_are_the_aggregates() -> None:
    made = [tm.sum("x", over="1h", hop="5m"), tm.min("x", over="1h", hop="5m"), tm.max("x", over="1h", hop="5m")]
    assert [getattr(a, "kind", None) for a in made] == ["sum", "min", "max"]


def test_a_wrong_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="Entity"):
        tm.Entitty  # noqa: B018


def test_importing_loads_little() -> None:
    code = (
        "import sys; before = set(sys.modules); import tidemill; new = set(sys.modules) - before;"
        "print(len(new), sorted(m for m in new if m.split('.')[0] not in sys.stdlib_module_names and not m.startswith('tidemill')))"
    )
    count, others = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(" ", 1)
    assert int(count) < 30
    assert others.strip() == "[]"


def test_a_definition_needs_no_engine() -> None:
    code = "import sys, tidemill as tm; tm.Entity('a'), tm.mean, tm.Service; sys.exit(any(m in sys.modules for m in ('duckdb', 'pyarrow', 'numpy', 'sqlalchemy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_onnx_runtime_tells_nobody_unless_somebody_wants_it() -> None:
    for given, wanted in ((None, "1"), ("0", "0")):
        environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | (
            {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
        )
        code = "import tidemill, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
        assert (
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.strip()
            == wanted
        )
