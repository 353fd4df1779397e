"""Keeps the README's borrowed parts equal to where they come from: the flights' definitions and the benchmark table.

python docs/hooks/readme.py
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = re.compile(r"(`examples/flights/definitions\.py`\):\n\n)```python\n.*?```\n", re.DOTALL)
BENCHMARKS = re.compile(r"(<!-- benchmarks:[^\n]*-->\n).*?(<!-- /benchmarks -->)", re.DOTALL)


def refreshed(text: str) -> str:
    """The README's text with both parts taken from their sources."""
    code = (ROOT / "examples" / "flights" / "definitions.py").read_text()
    text = DEFINITIONS.sub(lambda m: f"{m[1]}```python\n{code}```\n", text)
    return BENCHMARKS.sub(lambda m: m[1] + table() + m[2], text)


def table() -> str:
    """The rows of docs/benchmarks.md that are ours, with its head and without the last column of facts; nothing when there is no table yet."""
    path = ROOT / "docs" / "benchmarks.md"
    lines = path.read_text().splitlines() if path.is_file() else []
    start = next((i for i, line in enumerate(lines) if line.startswith("|")), len(lines))
    narrow = start < len(lines) and lines[start].endswith("| also |")
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        ours = "| tidemill |" in line or "| tidemill-" in line
        if len(rows) < 2 or (ours and "| scaling_" not in line):  # what grows how is a plot
            rows.append(line.rsplit("|", 2)[0] + "|" if narrow else line)
    return "\n".join(["", *rows, "", ""]) if rows else "\n"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(refreshed(readme.read_text()))
