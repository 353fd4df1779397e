"""Writes docs/benchmarks.md and docs/assets/scaling.svg from what the benchmarks printed.

python docs/hooks/benchmarks.py benchmarks/results/*.jsonl
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- figures: written by docs/hooks/benchmarks.py; run `make bench` -->"
PLOT = ROOT / "docs" / "assets" / "scaling.svg"
NOTED = {
    "durability": "{}",
    "cpu_s": "{} s of processor",
    "p99_ms": "p99 {} ms",
    "peak_mb": "peak {} MB",
    "lost": "lost {}",
    "future": "{} values from the future",
    "rows_lost": "{} rows lost",
    "x": "at {}",
}
"""Facts that the table shows, and how."""
LEGEND = """`× floor`: how many times worse than the hand-written floor of the same task (1 is at it). `× best peer`: how many times better than
the best peer (above 1 is ahead). `n`: rounds; the value is their median. A tool that failed, or answered wrongly, has no value but its reason."""


def rows(paths: list[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """All figures, and a line about the machine of each run."""
    figures: list[dict[str, Any]] = []
    machines = []
    for path in paths:
        loads = []
        start = len(machines)
        for line in path.read_text().splitlines():
            if not line.startswith("{"):
                continue
            found = json.loads(line)
            if found.get("task") == "machine":
                machines.append(_machine(path.stem, found))
            else:
                loads.append(found.get("load1", 0))
                figures.append({"area": path.stem, **found})
        if loads and len(machines) > start:
            machines[-1] += f"; load {min(loads)} to {max(loads)} while it ran"
    return figures, machines


def _machine(area: str, found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version != "absent")
    memory = f", {found['memory_gb']} GB" if "memory_gb" in found else ""
    when = f"{found.get('mode', 'quick')} run of {found['date']}" if "date" in found else "quick run"
    return f"{area}: {when}; {found['cores']} cores{memory}, {found['system']}, Python {found['python']}; {versions}"


def page(figures: list[dict[str, Any]], machines: list[str], plotted: bool) -> str:
    """The part of docs/benchmarks.md below the mark."""
    head = ["| area | task | tool | value | unit | n | × floor | × best peer | also |", "|---|---|---|---:|---|---:|---:|---:|---|"]
    body = [_row(f) for f in figures]
    notes = ["", LEGEND, ""]
    plot = ["![Seconds of one pass as rows, keys and windows grow, with the fitted exponents](assets/scaling.svg)", ""] if plotted else []
    return "\n".join(["", *head, *body, *notes, *plot, "What it ran on:", "", *(f"- {m}" for m in machines), ""])


def _row(f: dict[str, Any]) -> str:
    facts = ", ".join(text.format(_number(f[name])) for name, text in NOTED.items() if name in f)
    facts += f" version {f['version']}" if "version" in f else ""
    if f["value"] is None:
        facts = f"failed: {f.get('failed', '')}".replace("|", "/")
    values = [f["area"], f["task"], f["tool"], _number(f["value"]), f["unit"], f"{f['n']:,}"]
    return f"| {' | '.join([*values, _number(f.get('vs_floor')), _number(f.get('vs_best_peer')), facts.strip()])} |"


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def plot_module() -> Any:
    """The neighbour that draws."""
    spec = importlib.util.spec_from_file_location("plots", Path(__file__).with_name("plots.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    target = ROOT / "docs" / "benchmarks.md"
    kept = target.read_text().partition(MARK)[0].rstrip()
    figures, machines = rows([Path(p) for p in sys.argv[1:]])
    drawn = plot_module().scaling(figures)
    if drawn:
        PLOT.write_text(drawn)
    target.write_text(f"{kept}\n\n{MARK}\n{page(figures, machines, plotted=bool(drawn))}")
