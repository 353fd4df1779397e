"""Functions in processes of their own: who dies, hangs, fails or lies is contained."""

import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.flavor_kit import RULES

from tidemill.core.errors import InvalidError, RefusedError, UnavailableError
from tidemill.serving.apart import Pool


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "borrowed.py").write_text("from os import getenv\nfrom rules import first\n")
    return tmp_path


def pool(project: Path, target: str, **options: Any) -> Pool:
    return Pool(project, target, project, **options)


def ask(found: Pool, rows: int = 3) -> list[float]:
    return list(found.call({"a": np.arange(rows, dtype=np.float64)}, rows))


def test_numbers_and_texts_arrive_and_what_is_printed_goes_elsewhere(project: Path) -> None:
    assert ask(pool(project, "rules:first")) == [0.0, 2.0, 4.0]


def test_it_runs_in_another_process_without_secrets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_TOKEN", "secret")
    assert ask(pool(project, "rules:whoami"))[0] != os.getpid()
    assert ask(pool(project, "rules:secret")) == [0.0, 0.0, 0.0]


def test_a_process_that_was_killed_is_replaced_unseen(project: Path) -> None:
    found = pool(project, "rules:whoami")
    pid = int(ask(found)[0])
    os.kill(pid, signal.SIGKILL)
    assert int(ask(found)[0]) not in (pid, os.getpid())


def test_one_that_dies_on_each_call_is_unavailable(project: Path) -> None:
    with pytest.raises(UnavailableError, match="code 7, twice"):
        ask(pool(project, "rules:dies"))


def test_one_that_hangs_is_ended_in_time(project: Path) -> None:
    found, started = pool(project, "rules:slow", timeout_s=0.3), time.monotonic()
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"took more than 0\.3 s"):
            ask(found)
    assert time.monotonic() - started < 20


def test_its_own_words_are_kept(project: Path) -> None:
    found = pool(project, "rules:fails")
    for _ in range(2):  # the process lives on
        with pytest.raises(RuntimeError, match="the model's own words"):
            ask(found)
    with pytest.raises(RuntimeError, match="one score a row"):
        ask(pool(project, "rules:short"))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere:f", "No module named"),
        ("rules:nothing", "no attribute"),
        ("os:getenv", "not in"),
        ("borrowed:getenv", "no function that borrowed defines"),
        ("borrowed:first", "no function that borrowed defines"),
        ("rules:np", "no function"),
    ],
)
def test_only_functions_of_the_project_are_called(project: Path, target: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        ask(pool(project, target))


def test_an_interpreter_that_is_not_there_is_named(project: Path) -> None:
    with pytest.raises(RefusedError, match=r"no-python.*models\.python"):
        ask(pool(project, "rules:first", python="/no-python"))


def test_callers_share_the_processes(project: Path) -> None:
    found, seen = pool(project, "rules:whoami", processes=2), set[float]()
    threads = [threading.Thread(target=lambda: seen.update(ask(found))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(seen) <= 2


def test_the_process_goes_with_its_pool(project: Path) -> None:
    found = pool(project, "rules:whoami")
    pid = int(ask(found)[0])
    del found
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_many_rows_pass_through_the_pipe(project: Path) -> None:
    assert ask(pool(project, "rules:first"), 300_000)[-1] == 2 * 299_999.0


def test_another_interpreter_needs_no_tidemill(project: Path) -> None:
    script = project / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -P "$@"\n')
    script.chmod(0o755)
    assert ask(pool(project, "rules:first", python=str(script))) == [0.0, 2.0, 4.0]


def test_kept_functions_are_checked() -> None:
    from tidemill.adapters.function import kept

    for wrong in ("no colon", "a.b", "a:b:c", "a-b:c", "a:b()", ":f", "../x:f"):
        with pytest.raises(InvalidError, match="module:function"):
            kept.checked(wrong)
    with pytest.raises(RefusedError, match="only functions of the project"):
        kept.home("rules:f", "")


def test_files_outside_of_the_model_are_refused(tmp_path: Path) -> None:
    from tidemill.adapters.function import kept

    with pytest.raises(InvalidError, match="outside"):
        kept.load(kept.dump("rules:f", {"../../escaped": b"x"}), tmp_path / "into")
    assert not (tmp_path / "escaped").exists()
