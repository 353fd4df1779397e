"""Writes docs/benchmarks.md and docs/assets/scaling.svg from what the benchmarks printed.

python docs/hooks/benchmarks.py benchmarks/results/*.jsonl

Tasks that were not measured again keep their rows, and the line about the machine that they were measured on.
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
    "p50_ms": "p50 {} ms",
    "p99_ms": "p99 {} ms",
    "p999_ms": "p99.9 {} ms",
    "alone_p99_ms": "p99 alone {} ms",
    "shadow_p99_ms": "with a shadow {} ms",
    "idle_p99_ms": "p99 idle {} ms",
    "training_p99_ms": "beside a training {} ms",
    "refused_p99_ms": "p99 of refusals {} ms",
    "recovery_s": "recovered after {} s",
    "first_mb": "from {} MB",
    "last_mb": "to {} MB",
    "swaps": "{} swaps",
    "rate": "at {} requests/s",
    "goal": "goal {}",
    "peak_mb": "peak {} MB",
    "lost": "lost {}",
    "future": "{} values from the future",
    "rows_lost": "{} rows lost",
    "x": "at {}",
}
"""Facts that the table shows, and how."""
LEGEND = """`× floor`: how many times worse than the hand-written floor of the same task (1 is at it). `× best peer`: how many times better than
the best peer (above 1 is ahead). `n`: rounds; the value is their median. MB: 2^20 bytes. A tool that failed, or answered wrongly, has no value but its reason."""


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


def page(figures: list[dict[str, Any]], machines: list[str], before: str = "") -> str:
    """The part of docs/benchmarks.md below the mark; `before` is what it was."""
    head = ["| area | task | tool | value | unit | n | × floor | × best peer | also |", "|---|---|---|---:|---|---:|---:|---:|---|"]
    body = merged([_row(f) for f in figures], [line for line in before.splitlines() if line.startswith("| ") and line != head[0]])
    notes = ["", LEGEND, ""]
    plot = ["![Seconds of one pass as rows, keys and windows grow, with the fitted exponents](assets/scaling.svg)", ""]
    plot = plot if any(_task(row)[1].startswith("scaling_") for row in body) else []
    ran = _ran(machines, [line[2:] for line in before.splitlines() if line.startswith("- ")], {_task(row) for row in body}, figures)
    return "\n".join(["", *head, *body, *notes, *plot, "What it ran on:", "", *(f"- {m}" for m in ran), ""])


def merged(new: list[str], old: list[str]) -> list[str]:
    """Rows of the table: of a task that was measured again the new ones, in the place of the old; new tasks behind those of their area."""
    out, again = list(old), {_task(row) for row in new}
    for task in dict.fromkeys(map(_task, new)):
        rows = [row for row in new if _task(row) == task]
        at = next((i for i, row in enumerate(out) if _task(row) == task), None)
        if at is None:
            same = [i for i, row in enumerate(out) if _task(row)[0] == task[0]]
            at = same[-1] + 1 if same else len(out)
        out[at:at] = [f"new{row}" for row in rows]
    return [row.removeprefix("new") for row in out if row.startswith("new") or _task(row) not in again]


def _task(row: str) -> tuple[str, str]:
    """Area and task of a row."""
    area, task = row.removeprefix("new").split("|")[1:3]
    return area.strip(), task.strip()


def _ran(new: list[str], old: list[str], tasks: set[tuple[str, str]], figures: list[dict[str, Any]]) -> list[str]:
    """A line about each run that the table has rows of. One that has not all tasks of its area names those that it has."""
    now: dict[str, set[str]] = {}
    for figure in figures:
        now.setdefault(figure["area"], set()).add(figure["task"])
    out = []
    for line in old:
        name, _, facts = line.partition(": ")
        area, _, some = name.partition(" (")
        mine = set(some.removesuffix(")").split(", ")) if some else {task for of, task in tasks if of == area}
        left = mine - now.get(area, set())
        if left:
            out.append(line if left == mine else f"{_named(area, left, tasks)}: {facts}")
    for line in new:
        area, _, facts = line.partition(": ")
        out.append(f"{_named(area, now.get(area, set()), tasks)}: {facts}")
    return sorted(out)


def _named(area: str, some: set[str], tasks: set[tuple[str, str]]) -> str:
    return area if some >= {task for of, task in tasks if of == area} else f"{area} ({', '.join(sorted(some))})"


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


def plotted(text: str) -> list[dict[str, Any]]:
    """What the plots need of a page's rows, whichever run they are of."""
    out = []
    for row in text.splitlines():
        if row.startswith("| ") and _task(row)[1].startswith("scaling_"):
            _, task, _, value, *_, also = (cell.strip() for cell in row.split("|")[1:-1])
            at = also.rpartition("at ")[2].replace(",", "")
            out.append({"task": task, "value": float(value.replace(",", "")), "x": float(at) if at.isdecimal() else None})
    return out


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
    kept, _, before = target.read_text().partition(MARK)
    figures, machines = rows([Path(p) for p in sys.argv[1:]])
    text = page(figures, machines, before)
    if drawn := plot_module().scaling(plotted(text)):
        PLOT.write_text(drawn)
    target.write_text(f"{kept.rstrip()}\n\n{MARK}\n{text}")
