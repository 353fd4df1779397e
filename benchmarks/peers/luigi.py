"""Luigi: tasks in a row, each leaving a file by which it is known to be done. It has no cache of contents."""

import logging
import tempfile
import time
import warnings
from pathlib import Path

import luigi

from peers.worker import serve


class Add(luigi.Task):
    """Adds one to what the task before it left."""

    folder = luigi.Parameter()
    start = luigi.IntParameter()
    number = luigi.IntParameter()

    def requires(self) -> "list[Add]":
        return [Add(folder=self.folder, start=self.start, number=self.number - 1)] if self.number > 1 else []

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder) / f"{self.number}"))

    def run(self) -> None:
        before = self.requires()
        value = int(before[0].output().open().read()) if before else self.start
        with self.output().open("w") as out:
            out.write(str(value + 1))


def run(steps: int, start: int) -> dict[str, float]:
    """Seconds of a new chain, and of asking for the same one again (its last file is there, so nothing else is looked at)."""
    spent = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("new", "done"):
            begun = time.perf_counter()
            good = luigi.build([Add(folder=folder, start=start, number=steps)], local_scheduler=True, log_level="CRITICAL")
            spent[kind] = time.perf_counter() - begun
            if not good or int((Path(folder) / str(steps)).read_text()) != start + steps:
                raise ValueError("the chain's value is wrong")
    return spent


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    serve({"run": run, "version": lambda: luigi.__version__})
