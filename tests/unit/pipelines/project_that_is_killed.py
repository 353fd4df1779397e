"""Run by test_killed.py in processes that are killed: a pipeline of slow steps, run to its end if it is let."""

import os
import time
from pathlib import Path

from tidemill.core.clock import ReplayClock
from tidemill.ledger.store import Ledger
from tidemill.pipelines import pipeline, step
from tidemill.pipelines.codecs import default_codecs
from tidemill.pipelines.embedded import LocalExecutor
from tidemill.pipelines.ports import current
from tidemill.versioning.embedded import FileBlobStore


@step
def slow(n: int, book: str) -> dict[str, object]:
    time.sleep(0.02)
    current().log_metric("n", float(n), 0)
    with Path(book).open("a") as file:
        file.write(f"{n}\n")
    return {"n": n + 1, "text": "x" * 30_000}


@pipeline
def chain(book: str) -> int:
    n: object = 0
    for _ in range(12):
        n = slow(n, book)["n"]
    return n  # type: ignore[return-value]


if __name__ == "__main__":
    executor = LocalExecutor(Ledger("sqlite:///ledger.db"), FileBlobStore(Path("blobs")), default_codecs(), ReplayClock(7), {})
    os.write(1, b"ready\n")
    result = executor.run(chain.graph(book="book"), run_id="run-1", cause_id="cause-1")
    assert result.output == 12, result.error
