"""Bytes that Atheris makes, guided by what the parsers do with them, are answered by no 5xx and no crash. `TIDEMILL_FUZZ_S=600` is for nights."""

import os
import re
from pathlib import Path

import pytest
from tests.support.parser_fuzz import fuzz


@pytest.mark.slow
def test_no_bytes_that_a_guided_fuzzer_makes_are_a_5xx(tmp_path: Path) -> None:
    done = fuzz(tmp_path, int(os.environ.get("TIDEMILL_FUZZ_S", "15")))
    assert done.returncode == 0, done.stderr[-3000:]
    tried = re.search(r"Done (\d+) runs", done.stderr)
    assert tried, done.stderr[-1000:]
    assert int(tried[1]) > 100
    reached = [int(n) for n in re.findall(r"cov: (\d+)", done.stderr)]
    assert reached[-1] > reached[0], "what was made reached no more than the valid requests do"
