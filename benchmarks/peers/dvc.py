"""DVC: stages in a row, `dvc repro` new, and restored from its run cache after their outputs were removed."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import dvc

from peers.worker import serve


def call(folder: Path, *command: str) -> tuple[float, str]:
    """Seconds, and what was printed."""
    begun = time.perf_counter()
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": ""}
    done = subprocess.run(["dvc", *command], cwd=folder, env=env, capture_output=True, text=True, check=True)
    return time.perf_counter() - begun, done.stdout


def run(steps: int, start: int) -> dict[str, float]:
    """Seconds of a new chain, of the unchanged one, and of one whose outputs come from the cache. The command's start is in them."""
    folder = Path(tempfile.mkdtemp())
    try:
        call(folder, "init", "--no-scm", "-q")
        call(folder, "config", "core.check_update", "false")
        stage = "  s{0}:\n    cmd: echo $(( $(cat x{1}) + 1 )) > x{0}\n    deps: [x{1}]\n    outs: [x{0}]\n"
        (folder / "dvc.yaml").write_text("stages:\n" + "".join(stage.format(i, i - 1) for i in range(1, steps + 1)))
        (folder / "x0").write_text(f"{start}\n")
        spent = {}
        for kind, told in (("new", "Running stage"), ("unchanged", "didn't change"), ("cached", "is cached")):
            if kind == "cached":
                for i in range(1, steps + 1):
                    (folder / f"x{i}").unlink()
                (folder / "dvc.lock").unlink()
            spent[kind], out = call(folder, "repro")
            if out.count(told) != steps or int((folder / f"x{steps}").read_text()) != start + steps:
                raise ValueError(f"{kind}: {out[-300:]}")
        return spent
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    serve({"run": run, "version": lambda: dvc.__version__})
