"""The two screens worth more than a table: a compared replay, and the way back from a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tidemill.cli.output import cell, console
from tidemill.core.instants import format_instant

if TYPE_CHECKING:
    from rich.tree import Tree

COLORS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_HEIGHT = 12
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def show_replay(report: Mapping[str, Any]) -> None:
    """Print the policies side by side, best first, and their served loss by week as a plot."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    policies = list(report["policies"])
    color = {p["name"]: COLORS[i % len(COLORS)] for i, p in enumerate(policies)}
    first, last = format_instant(report["from_us"])[:10], format_instant(report["until_us"])[:10]
    out.print()
    out.print(Text(f"{report['service']}: what each policy would have been worth, {first} to {last}", style="bold"))
    out.print()
    base = next((p for p in policies if p["name"] == "never"), None)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("policy")
    for column in ("log loss", "vs never", "AUC", "predictions", "trainings", "minutes", "promotions", "rollbacks"):
        table.add_column(column, justify="right")
    for policy in sorted(policies, key=lambda p: (p["log_loss"] is None, p["log_loss"] or 0.0)):
        table.add_row(*_policy(policy, base, color[policy["name"]]))
    out.print(table)
    out.print()
    for line in plot({p["name"]: p["weeks"] for p in policies if p["weeks"]}, color, report["from_us"], report["until_us"]):
        out.print(line)


def _policy(policy: Mapping[str, Any], base: Mapping[str, Any] | None, color: str) -> list[Any]:
    from rich.text import Text

    gain = Text("—")
    if base is not None and base is not policy and base["log_loss"] is not None and policy["log_loss"] is not None:
        worth = base["log_loss"] - policy["log_loss"]
        gain = Text(f"{-worth:+.4f}", style="green" if worth > 0 else "red")
    return [
        Text(f"● {policy['name']}", style=color),
        "—" if policy["log_loss"] is None else f"{policy['log_loss']:.4f}",
        gain,
        "—" if policy["auc"] is None else f"{policy['auc']:.3f}",
        f"{policy['n']:,}",
        str(policy["trainings"]),
        f"{policy['minutes']:.1f}",
        str(policy["promotions"]),
        str(policy["rollbacks"]),
    ]


def plot(series: Mapping[str, Sequence[Mapping[str, Any]]], color: Mapping[str, str], from_us: int, until_us: int) -> list[Any]:
    """Lines of a braille plot of log loss by week, one colour per policy, with axes."""
    from rich.text import Text

    values = [w["log_loss"] for weeks in series.values() for w in weeks if w["log_loss"] is not None]
    if not values:
        return [Text("no labelled predictions to plot yet")]
    low, high = min(values), max(values)
    high = high if high > low else low + 1e-9
    width = min(72, max(48, 2 * max(len(w) for w in series.values())))
    cells = [[(0, "")] * width for _ in range(_HEIGHT)]
    for name, weeks in series.items():
        points = [(w["week_us"], w["log_loss"]) for w in weeks if w["log_loss"] is not None]
        for x, y in _strokes(points, from_us, until_us, low, high, width * 2, _HEIGHT * 4):
            bits, _ = cells[y // 4][x // 2]
            cells[y // 4][x // 2] = (bits | _DOTS[y % 4][x % 2], color[name])
    lines = [Text("served log loss by week", style="dim")]
    for number, row in enumerate(cells):
        level = {0: f"{high:.3f}", _HEIGHT // 2: f"{(low + high) / 2:.3f}", _HEIGHT - 1: f"{low:.3f}"}.get(number, "")
        line = Text(f"{level:>7} │", style="dim")
        for bits, tint in row:
            line.append(chr(0x2800 + bits), style=tint)
        lines.append(line)
    lines.append(Text(f"{'':>7} └{'─' * width}", style="dim"))
    first, last = format_instant(from_us)[:10], format_instant(until_us)[:10]
    lines.append(Text(f"{'':>9}{first}{last:>{width - 10}}", style="dim"))
    return lines


def _strokes(
    points: Sequence[tuple[int, float]], from_us: int, until_us: int, low: float, high: float, width: int, height: int
) -> list[tuple[int, int]]:
    """The dots of a line through `points`, from the top left; `width` and `height` count dots."""
    spots = [
        (round((at - from_us) / max(1, until_us - from_us) * (width - 1)), round((high - value) / (high - low) * (height - 1)))
        for at, value in points
    ]
    dots = spots[:1]
    for (x0, y0), (x1, y1) in pairwise(spots):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        dots += [(round(x0 + (x1 - x0) * i / steps), round(y0 + (y1 - y0) * i / steps)) for i in range(1, steps + 1)]
    return [(x, y) for x, y in dots if 0 <= x < width and 0 <= y < height]


def show_why(found: Mapping[str, Any]) -> None:
    """Print the way back from a prediction as a tree."""
    from rich.tree import Tree

    prediction, model, run, decision = found["prediction"], found["model"], found["run"], found["decision"]
    tree = Tree(
        f"[bold]{prediction['id']}[/] scored [bold]{prediction['score']:.4f}[/] by {prediction['service']} ({prediction['role']}) "
        f"at {format_instant(prediction['at_us'])}"
    )
    tree.add(f"label  {_labels(found['label'])}")
    if found.get("graph"):
        _show_route(tree, found["graph"])
    behind = tree.add(f"model  {model['uri']}  {model['digest'][:19]}…  ({model['status']})") if model else tree
    if decision is not None:
        behind.add(f"let through by  {decision['kind']}: {decision['outcome']} at {format_instant(decision['at_us'])}  {decision['id']}")
    if run is not None:
        cause = (run.get("cause") or {}).get("kind", "unknown")
        branch = behind.add(f"made by  {run['id']}  cause: {cause}, started {format_instant(run['started_us'])}")
        for table, snapshot in found["snapshots"].items():
            branch.add(f"read {table} at snapshot {snapshot}")
    if found.get("contributions"):
        added = tree.add("what each feature adds to the answer, before the model's link function")
        for one in found["contributions"][:9] + [c for c in found["contributions"][9:] if c["name"] == "base"]:
            value = "" if one["name"] == "base" else f" = {cell('', one['value'])}"
            added.add(f"{one['adds']:+.4f}  {one['name']}{value}")
    features = tree.add("features")
    shown: set[str] = set()
    for feature in found["features"]:
        leaf = features.add(f"{feature['name']} = [bold]{cell('', feature['value'])}[/]  [dim]{feature.get('from', '')}[/]")
        if feature.get("view") and feature["view"] not in shown:
            shown.add(feature["view"])
            for row in feature["rows"]:
                style = "" if row["use"] == "used" else "[dim]"
                times = f"happened {format_instant(row['event_us'])}, known {format_instant(row['known_us'])}"
                leaf.add(f"{style}{row['use'].replace('_', ' ')}: {feature['table']} {times}")
    console().print(tree)


def _show_route(tree: Tree, graph: Mapping[str, Any]) -> None:
    """The stations of a graph's route, and what each says of the same inputs now."""
    again = f"asked again it says {graph['again']:.4f}" if graph["again"] is not None else graph["note"]
    route = tree.add(f"graph  version {graph['version']}; {again}")
    for station in graph["stations"]:
        made_by = f"{station['uri']}  made by {station['run']}"
        who = made_by if station["uri"] else station["version"] and f"code {station['version']}"
        said = f" = [bold]{cell('', station['said'])}[/]" if station["said"] is not None else ""
        route.add(f"{station['node']}{said}  {who}{'' if station['state'] == 'ok' else '  [red]' + station['state'] + '[/]'}")
    for one in graph["compositions"]:
        route.add(f"{one['node']} = [bold]{cell('', one['said'])}[/]")


def _labels(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "not known yet"
    told = [f"{cell('', r['value'])} (known {format_instant(r['known_us'])} from {r['writer']})" for r in rows]
    return ", then ".join(told)
