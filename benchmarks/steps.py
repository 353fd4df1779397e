"""What a pipeline step costs over its function: 20 trivial steps in a row, beside Luigi, ZenML, DVC and the plain Python loop.

    python benchmarks/steps.py [TASK …] --json [--quick]

Tasks: step_new (steps that never ran), step_cached (the same again, every step found by its content), step_layout (the graph alone).
Luigi keeps files as state and has no cache of contents: asked again it looks at the last file only, which is not a cached step. DVC
is a command, so each run starts an interpreter and each new step a shell. Durability: a step of Tidemill survives a killed process,
the end of a run a power cut; ZenML's SQLite store survives both; Luigi's and DVC's files survive a killed process.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import kit

from tidemill.core.clock import WallClock
from tidemill.ledger.store import Ledger
from tidemill.pipelines import pipeline, step
from tidemill.pipelines.codecs import default_codecs
from tidemill.pipelines.embedded import LocalExecutor
from tidemill.versioning.embedded import FileBlobStore

STEPS = 20
FLOOR = "floor-loop"
PEERS = {"luigi": ["luigi>=3.6"], "zenml": ["zenml[local]>=0.90"], "dvc": ["dvc>=3.60"]}


def add(x: int, by: int = 1) -> int:
    """The work."""
    return x + by


add_step = step(add)


@pipeline
def chain(start: int) -> int:
    """20 steps in a row."""
    value = start
    for _ in range(STEPS):
        value = add_step(value)
    return value


class Ours:
    """The embedded executor on a ledger and a blob store in a fresh folder."""

    def __init__(self, folder: Path) -> None:
        ledger, blobs = Ledger(f"sqlite:///{folder}/ledger.db"), FileBlobStore(folder / "blobs")
        self.executor = LocalExecutor(ledger, blobs, default_codecs(), WallClock(), {})
        self.cached: list[float] = []
        self.layout: list[float] = []
        self.run(-1_000_000)

    def run(self, start: int) -> float:
        """Seconds of a new chain; those of its repetition and of its graph are noted."""
        graphs: list[object] = []
        self.layout.append(kit.seconds(lambda: graphs.append(chain.graph(start=start))))
        spent = []
        for kind in ("new", "cached"):
            results: list[object] = []
            act = partial(self.executor.run, graphs[0], run_id=f"{kind}{start}", cause_id="bench")  # type: ignore[arg-type]
            spent.append(kit.seconds(lambda act=act, results=results: results.append(act())))  # type: ignore[misc]
            found = results[0]
            if (found.output, found.ran) != (start + STEPS, STEPS if kind == "new" else 0):  # type: ignore[attr-defined]
                raise kit.WrongError(f"{kind}: {found}")
        self.cached.append(spent[1])
        return spent[0]


def loop(start: int) -> None:
    """The floor."""
    value = start
    for _ in range(STEPS):
        value = add(value)


def measure(folder: Path, rounds: int) -> None:
    """Every tool in every round, on a chain that it has not seen."""
    ours, number = Ours(folder), itertools.count(1)
    cached: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    peers: dict[str, kit.Peer] = {}
    for name, needs in PEERS.items():
        python = kit.peer_python(name, *needs)
        if python is not None:
            peers[name] = kit.Peer(python, name, folder / name, HOME=str(folder / name), ZENML_CONFIG_PATH=str(folder / "zenml-config"))

    def by_peer(name: str) -> float:
        spent = peers[name].ask("run", steps=STEPS, start=next(number) * 1000)
        if "cached" in spent:
            cached.setdefault(name, []).append(spent["cached"])
        return float(spent["new"])

    tools: dict[str, Callable[[], float]] = {
        FLOOR: lambda: kit.seconds(lambda: [loop(i) for i in range(100)]) / 100,
        kit.OURS: lambda: ours.run(next(number) * 1000),
    }
    versions: dict[str, dict[str, str]] = {}
    try:
        for name, peer in peers.items():
            try:
                versions[name] = {"version": peer.ask("version")}
                peer.ask("run", steps=2, start=0)
                tools[name] = partial(by_peer, name)
            except RuntimeError as error:
                failures[name] = str(error)
        ours.cached.clear()
        ours.layout.clear()
        new = kit.interleave(tools, rounds, slow={"dvc": 5, "zenml": 5}, failures=failures)
    finally:
        for peer in peers.values():
            peer.close()
    scale = 1000 / STEPS
    kit.report("step_new", new, "ms/step", scale=scale, floor=FLOOR, extra=versions, failures=failures)
    again = {FLOOR: new[FLOOR], kit.OURS: ours.cached, **cached}
    kit.report("step_cached", again, "ms/step", scale=scale, floor=FLOOR, extra=versions)
    kit.report("step_layout", {kit.OURS: ours.layout}, "ms/step", scale=scale)


def main() -> None:
    """Print one line per figure."""
    options = kit.arguments(__doc__ or "")
    kit.machine("tidemill", "sqlalchemy")
    with kit.scratch() as folder:
        measure(folder, 5 if options.quick else 15)


if __name__ == "__main__":
    main()
