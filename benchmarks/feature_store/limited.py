"""One pass over windows in a process that cannot have more memory than it is told: python -m feature_store.limited TOOL HOME WINDOWS MB."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from feature_store import floors
from feature_store.data import EVENTS, scan, window_view
from feature_store.windows import spans_of
from tidemill.features.embedded import DuckOfflineStore


def main() -> None:
    """Print seconds, processor seconds and the peak of resident memory; write the answer beside the data."""
    tool, home, windows, limit_mb = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mb * 2**20, limit_mb * 2**20))
    started, cpu = time.perf_counter(), time.process_time()
    if tool == "tidemill":
        store = DuckOfflineStore(memory_limit=f"{limit_mb // 4}MB")
        found = store.join(pq.read_table(home / "spine.parquet"), [window_view(windows)], {EVENTS.name: scan(home, EVENTS.name)})
    else:
        found = floors.windows_by_sql(home, spans_of(windows), memory=f"{limit_mb * 3 // 4}MB")
    spent = {"s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    pq.write_table(found, home / f"{tool}.parquet")
    print(json.dumps({**spent, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
