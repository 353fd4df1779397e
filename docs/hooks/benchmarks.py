"""Writes docs/benchmarks.md from what the benchmarks printed.

python docs/hooks/benchmarks.py benchmarks/results/*.jsonl
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- figures: written by docs/hooks/benchmarks.py; run `make bench` -->"


def rows(paths: list[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """All figures, and a line about the machine of each run."""
    figures: list[dict[str, Any]] = []
    machines = []
    for path in paths:
        for line in path.read_text().splitlines():
            if not line.startswith("{"):
                continue
            found = json.loads(line)
            if found.get("task") == "machine":
                versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
                machines.append(
                    f"{path.stem}: {found['cores']} cores, {found['system']}, Python {found['python']}, load {found['load1']}; {versions}"
                )
            else:
                figures.append({"area": path.stem, **found})
    return figures, machines


def page(figures: list[dict[str, Any]], machines: list[str]) -> str:
    """The part of docs/benchmarks.md below the mark."""
    head = ["| area | task | tool | value | unit | n | × floor | × best peer |", "|---|---|---|---:|---|---:|---:|---:|"]
    body = [
        f"| {f['area']} | {f['task']} | {f['tool']} | {_number(f['value'])} | {f['unit']} | {f['n']:,} | {_number(f.get('vs_floor'))} | {_number(f.get('vs_best_peer'))} |"
        for f in figures
    ]
    notes = [
        "",
        "`× floor`: how many times worse than the hand-written floor (1 is at it). `× best peer`: how many times better than the best peer.",
        "",
    ]
    return "\n".join(["", *head, *body, *notes, *(f"- {m}" for m in machines), ""])


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    target = ROOT / "docs" / "benchmarks.md"
    kept = target.read_text().partition(MARK)[0].rstrip()
    figures, machines = rows([Path(p) for p in sys.argv[1:]])
    target.write_text(f"{kept}\n\n{MARK}\n{page(figures, machines)}")
