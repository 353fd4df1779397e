"""ZenML: steps in a row in one process, new and cached by content, on its default local stack."""

import logging
import os
import time

os.environ |= {"ZENML_ANALYTICS_OPT_IN": "false", "ZENML_LOGGING_VERBOSITY": "ERROR", "AUTO_OPEN_DASHBOARD": "false"}

import zenml
from zenml import pipeline, step

from peers.worker import serve


@step
def add(x: int) -> int:
    """The work."""
    return x + 1


def run(steps: int, start: int) -> dict[str, float]:
    """Seconds of a new chain, and of the same one again from the cache."""

    @pipeline(enable_cache=True)
    def chain() -> None:
        value = add(start)
        for _ in range(steps - 1):
            value = add(value)

    spent = {}
    for kind, status in (("new", "completed"), ("cached", "cached")):
        begun = time.perf_counter()
        done = chain()
        spent[kind] = time.perf_counter() - begun
        states = [str(one.status).lower().rpartition(".")[2] for one in done.steps.values()]
        last = done.steps[f"add_{steps}" if steps > 1 else "add"].output.load()
        if states != [status] * steps or last != start + steps:
            raise ValueError(f"{kind}: {states}, {last}")
    return spent


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    serve({"run": run, "version": lambda: zenml.__version__})
