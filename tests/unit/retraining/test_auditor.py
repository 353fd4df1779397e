"""Rows are audited when a replay reads its past and again when a turn takes them in; the second time costs nothing, and takes little memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tidemill.retraining import loop
from tidemill.retraining.loop import Auditor
from tidemill.validation import infer
from tidemill.validation.embedded import SketchProfiler, YamlSchemaStore


class Counted(SketchProfiler):
    """Knows how often rows were profiled."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def profile(self, rows: pa.Table, columns: Sequence[str] | None = None) -> Any:
        self.count += 1
        return super().profile(rows, columns)


def rows(high: int, size: int = 50) -> pa.Table:
    return pa.table({"minutes": [n % high for n in range(size)], "name": [f"n-{n}" for n in range(size)]})


@pytest.fixture
def profiler() -> Counted:
    return Counted()


@pytest.fixture
def auditor(tmp_path: Path, profiler: Counted) -> Auditor:
    schemas = YamlSchemaStore(tmp_path)
    schemas.save(infer("orders", rows(10)))
    return Auditor(schemas, profiler, {"orders": frozenset({"name"})})


@pytest.mark.parametrize(("given", "wrong"), [(rows(10), []), (rows(10_000, 9_000), ["minutes"])])
def test_equal_rows_get_the_same_answer_from_memory(auditor: Auditor, profiler: Counted, given: pa.Table, wrong: list[str]) -> None:
    first = auditor("orders", given)
    before = profiler.count
    again = auditor("orders", given)
    assert profiler.count == before
    assert again.anomalies == first.anomalies
    assert [a.column for a in first.anomalies][: len(wrong)] == wrong
    assert first.profile is not None
    assert again.profile is not None
    assert again.profile.to_bytes() == first.profile.to_bytes()


def test_the_oldest_answers_are_forgotten(auditor: Auditor, profiler: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "REMEMBERED", 2)
    for size in (50, 60, 70):
        auditor("orders", rows(10, size))
    before = profiler.count
    auditor("orders", rows(10, 70))
    auditor("orders", rows(10, 60))
    assert profiler.count == before
    auditor("orders", rows(10, 50))
    assert profiler.count == before + 1
