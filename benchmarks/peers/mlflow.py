"""MLflow's tracking in its client library, no server: the file store (no fsync), SQLite (rollback journal, fsync at each commit), batches."""

import logging
import multiprocessing
import os
import sqlite3
import time
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "GIT_PYTHON_REFRESH": "quiet"}

import mlflow
from mlflow.entities import Metric, Param

from peers.worker import serve

NAMES = ("loss", "auc", "acc")
PARAMS = {f"p{i}": str(i * 0.1) for i in range(10)}
_META = """artifact_uri: {run}/artifacts
end_time: {at}
entry_point_name: ''
experiment_id: '{experiment}'
lifecycle_stage: active
run_id: {run}
run_name: {run}
source_name: ''
source_type: 4
source_version: ''
start_time: {at}
status: 3
tags: []
user_id: u
"""


def values(step: int) -> dict[str, float]:
    """The metrics of a step."""
    return {name: (step + 1) / (step + 2 + i) for i, name in enumerate(NAMES)}


def uri(kind: str, folder: str) -> str:
    """Where a store of a kind lies in a folder."""
    return f"file://{folder}/mlruns" if kind == "file" else f"sqlite:///{folder}/mlflow.db"


def open_store(kind: str, folder: str) -> None:
    """Make the store, or find it."""
    quiet()
    mlflow.set_tracking_uri(uri(kind, folder))
    mlflow.set_experiment("bench")


def quiet() -> None:
    """No notes on what is going on."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def one_run(kind: str, steps: int) -> None:
    """A run of 10 parameters and `steps` of 3 metrics, a call a step; in batches, one call for all."""
    with mlflow.start_run() as run:
        if kind == "batch":
            now = int(time.time() * 1000)
            metrics = [Metric(k, v, now, step) for step in range(steps) for k, v in values(step).items()]
            mlflow.MlflowClient().log_batch(run.info.run_id, metrics, [Param(k, v) for k, v in PARAMS.items()])
            return
        mlflow.log_params(PARAMS)
        for step in range(steps):
            mlflow.log_metrics(values(step), step=step)


def log(kind: str, folder: str, runs: int, steps: int) -> float:
    """Seconds of some runs."""
    open_store(kind, folder)
    begun = time.perf_counter()
    for _ in range(runs):
        one_run(kind, steps)
    return time.perf_counter() - begun


def whole(kind: str, folder: str) -> int:
    """Finished runs that have all parameters and metrics."""
    client = mlflow.MlflowClient(uri(kind, folder))
    experiment = client.get_experiment_by_name("bench").experiment_id
    found, token = 0, None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found += sum(r.info.status == "FINISHED" and len(r.data.params) == 10 and len(r.data.metrics) == 3 for r in page)
        token = page.token
        if not token:
            return found


def writer(kind: str, folder: str, runs: int, steps: int, go: Any, told: Any) -> None:
    """One of the processes that write together."""
    open_store(kind, folder)
    go.wait(300)
    done, worst, error = 0, 0.0, ""
    for _ in range(runs):
        begun = time.perf_counter()
        try:
            one_run(kind, steps)
            done += 1
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"[:200]
            while mlflow.active_run():
                mlflow.end_run()
        worst = max(worst, time.perf_counter() - begun)
    told.put((done, worst, error))


def writers(kind: str, folder: str, processes: int, runs: int, steps: int) -> dict[str, Any]:
    """Runs a second of processes that write to one store, the slowest run, and how many are there whole."""
    open_store(kind, folder)
    context = multiprocessing.get_context("spawn")
    told, go = context.Queue(), context.Barrier(processes + 1)
    workers = [context.Process(target=writer, args=(kind, folder, runs, steps, go, told)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    go.wait(300)
    begun = time.perf_counter()
    answers = [told.get(timeout=600) for _ in workers]
    wall = time.perf_counter() - begun
    for worker in workers:
        worker.join(60)
    errors = sorted({error for _, _, error in answers if error})
    return {
        "rate": sum(a[0] for a in answers) / wall,
        "slowest": max(a[1] for a in answers),
        "whole": whole(kind, folder),
        "errors": errors,
    }


def fill(kind: str, folder: str, rows: list[tuple[str, dict[str, float], int]]) -> None:
    """Put finished runs straight into the store: through the client it takes tens of minutes."""
    open_store(kind, folder)
    experiment = mlflow.get_experiment_by_name("bench").experiment_id
    if kind == "file":
        for name, metrics, at in rows:
            home = Path(folder) / "mlruns" / experiment / name
            for part in ("params", "metrics", "tags", "artifacts"):
                (home / part).mkdir(parents=True)
            (home / "meta.yaml").write_text(_META.format(run=name, experiment=experiment, at=at))
            for k, v in PARAMS.items():
                (home / "params" / k).write_text(v)
            for k, v in metrics.items():
                (home / "metrics" / k).write_text(f"{at} {v} 0\n")
        return
    db = sqlite3.connect(Path(folder) / "mlflow.db")
    columns = (
        "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, source_version, lifecycle_stage"
    )
    db.executemany(
        f"INSERT INTO runs ({columns}, artifact_uri, experiment_id) VALUES (?, ?, 'UNKNOWN', '', '', 'u', 'FINISHED', ?, ?, '', 'active', '', ?)",
        [(name, name, at, at, experiment) for name, _, at in rows],
    )
    db.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", [(k, v, n) for n, _, _ in rows for k, v in PARAMS.items()])
    metrics = [(k, v, at, name) for name, m, at in rows for k, v in m.items()]
    for table in ("metrics", "latest_metrics"):
        db.executemany(f"INSERT INTO {table} (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, 0, 0, ?)", metrics)
    db.commit()
    db.close()


def search(kind: str, folder: str) -> dict[str, Any]:
    """Seconds to find the best 50 runs by a metric, and their names."""
    quiet()
    client = mlflow.MlflowClient(uri(kind, folder))
    experiment = client.get_experiment_by_name("bench").experiment_id
    begun = time.perf_counter()
    found = client.search_runs([experiment], order_by=["metrics.auc DESC"], max_results=50)
    return {"s": time.perf_counter() - begun, "names": [run.info.run_id for run in found]}


if __name__ == "__main__":
    quiet()
    serve({"log": log, "writers": writers, "fill": fill, "search": search, "version": lambda: mlflow.__version__})
