"""Rows scored per second in a batch, beside the runtime alone on a matrix that is ready.

    python benchmarks/batch.py [TASK …] [--json] [--quick]

The model is the one of `serving.py` (LightGBM, 200 trees, 20 features, served by ONNX Runtime; `tidemill-numba` by compiled trees).
`batch_inference`: what a batch does to rows whose features are joined: encode, score on all cores, write the part durably. The floor is ONNX Runtime alone on the same rows as one
float64 matrix in memory, in slices on as many threads, nothing read and nothing written; `floor-one-call` gives it all rows at once.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import kit
import numpy as np
import pyarrow as pa
from serving import FEATURES, make_model

FLOOR = "floor-onnxruntime"


def scoring(home: Path, rows: int, rounds: int) -> None:
    import os

    import onnxruntime as ort

    from tidemill.adapters.numba.serving import compiled
    from tidemill.platform.batch.job import Job
    from tidemill.platform.batch.predict import result_of, scores_of
    from tidemill.serving.embedded import OnnxRuntime
    from tidemill.training import encode_columns

    cores = len(os.sched_getaffinity(0))
    plain, numba = OnnxRuntime().load(home / "package"), OnnxRuntime(trees=compiled).load(home / "package")
    x = np.random.default_rng(5).normal(size=(rows, len(FEATURES)))
    at = pa.array(np.arange(rows)).cast(pa.timestamp("us", "UTC"))
    joined = pa.table({"id": pa.array([f"r{i}" for i in range(rows)]), "at": at, **{n: x[:, i] for i, n in enumerate(FEATURES)}})
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores
    session = ort.InferenceSession(str(home / "package" / "model.onnx"), options, providers=["CPUExecutionProvider"])
    pool, last = ThreadPoolExecutor(cores), dict[str, Any]()

    def ours(model: Any, name: str) -> float:
        job = Job(home / "jobs", {"round": len(last)})
        job.begin({})
        began = perf_counter()
        scores = scores_of(model, encode_columns(joined, model.features, model.categories), pool)
        job.keep(0, result_of(joined.select(["id", "at"]), scores, "key", 1))
        took = perf_counter() - began
        job.forget()
        last[name] = scores
        return rows / took

    def floor() -> float:
        began = perf_counter()
        last["floor"] = session.run(None, {session.get_inputs()[0].name: x})[0][:, 0]
        return rows / (perf_counter() - began)

    single = ort.SessionOptions()
    single.intra_op_num_threads = 1
    alone = ort.InferenceSession(str(home / "package" / "model.onnx"), single, providers=["CPUExecutionProvider"])

    def sliced() -> float:
        began = perf_counter()
        name = alone.get_inputs()[0].name
        list(pool.map(lambda start: alone.run(None, {name: x[start : start + 8192]}), range(0, rows, 8192)))
        return rows / (perf_counter() - began)

    both = {kit.OURS: partial(ours, plain, kit.OURS), f"{kit.OURS}-numba": partial(ours, numba, f"{kit.OURS}-numba")}
    for warm in (*both.values(), floor):
        warm()
    rates = kit.interleave({**both, FLOOR: sliced, "floor-one-call": floor}, rounds)
    if any(np.max(np.abs(last[name] - last["floor"])) > 1e-12 for name in both):
        raise kit.WrongError("the batch's scores are not the runtime's")
    kit.report(
        "batch_inference", rates, "rows/s", floor=FLOOR, better="higher", extra={key: {"threads": cores, "rows": rows} for key in rates}
    )


def main() -> None:
    options = kit.arguments(__doc__ or "")
    kit.machine("tidemill", "onnxruntime", "lightgbm", "numba")
    with kit.scratch() as home:
        make_model(home)
        if options.wants("batch_inference"):
            scoring(home, 100_000 if options.quick else 500_000, 3 if options.quick else 5)


if __name__ == "__main__":
    main()
