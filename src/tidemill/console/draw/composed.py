"""A service's inference graph: a sequence goes from left to right, what is composed stands in a frame below one another, each with when it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from tidemill.console.draw.svg import picture, tag

BOX_W, BOX_H, GAP, PAD, TITLE, LETTER = 168, 46, 34, 10, 26, 6.6
"""`LETTER`: how wide a letter is, about; how a text is set is the browser's matter."""
_Node = Mapping[str, Any]


@dataclass(slots=True)
class _Part:
    """A node with those inside, and how much room it takes."""

    node: _Node
    inside: list[_Part] = field(default_factory=list)
    width: float = BOX_W
    height: float = BOX_H

    @property
    def labels(self) -> float:
        """How much room it takes to say when each node inside is asked."""
        longest = max((len(_short(part.node["when"], 16)) for part in self.inside), default=0)
        return longest * LETTER + 14 if longest else 0.0

    @property
    def title(self) -> tuple[str, str]:
        """The name of a composition, and what it does."""
        name, kind = self.node["node"], self.node["kind"]
        return name, f"{'' if name == kind else kind + ' · '}{_short(self.node['how'], 60)}"


def composed(nodes: Sequence[_Node]) -> Markup:
    """Draw the nodes as `api.queries.graphs.nodes` tells them; nothing without any."""
    if not nodes:
        return Markup("")
    root = _tree(nodes)
    _measure(root)
    return picture(
        root.width + 2 * PAD, root.height + 2 * PAD, *_draw(root, PAD, PAD), label=f"Inference graph of {_leaves(root)} nodes", class_="pic graph composed", grows=False
    )  # fmt: skip


def _tree(nodes: Sequence[_Node]) -> _Part:
    """Each node after the one that it stands in, one deeper."""
    way = [_Part(nodes[0])]
    for node in nodes[1:]:
        del way[node["depth"] :]
        part = _Part(node)
        way[-1].inside.append(part)
        way.append(part)
    return way[0]


def _leaves(part: _Part) -> int:
    return sum(map(_leaves, part.inside)) if part.inside else 1


def _measure(part: _Part) -> None:
    for inner in part.inside:
        _measure(inner)
    if not part.inside:
        return
    if part.node["kind"] == "sequence":
        part.width = sum(inner.width for inner in part.inside) + GAP * (len(part.inside) - 1)
        part.height = max(inner.height for inner in part.inside)
    else:
        title = LETTER * 0.95 * len(" ".join(part.title))
        part.width = max(title, max(inner.width for inner in part.inside) + part.labels) + 2 * PAD
        part.height = sum(inner.height for inner in part.inside) + PAD * (len(part.inside) + 1) + TITLE


def _draw(part: _Part, x: float, y: float) -> list[Markup]:
    if not part.inside:
        return [_box(part.node, x, y)]
    if part.node["kind"] != "sequence":
        return _frame(part, x, y)
    out: list[Markup] = []
    middle = y + part.height / 2
    for i, inner in enumerate(part.inside):
        if i:
            out += [tag("path", d=f"M{x - GAP + 4:.1f} {middle:.1f}H{x - 4:.1f}m-5 -4l5 4l-5 4", class_="edge")]
        out += _draw(inner, x, middle - inner.height / 2)
        x += inner.width + GAP
    return out


def _frame(part: _Part, x: float, y: float) -> list[Markup]:
    (name, how), left = part.title, x + PAD + part.labels
    out = [
        tag("rect", x=x, y=y, width=part.width, height=part.height, rx=8, class_="frame"),
        tag("text", tag("tspan", name, class_="box-name"), f"  {how}", x=x + PAD + 2, y=y + 20, class_="box-note"),
    ]
    y += TITLE + PAD
    for inner in part.inside:
        if inner.node["when"]:
            out.append(
                tag("text", _short(inner.node["when"], 16), x=left - 8, y=y + inner.height / 2 + 4, text_anchor="end", class_="box-note")
            )
        out += _draw(inner, left, y)
        y += inner.height + PAD
    return out


def _box(node: _Node, x: float, y: float) -> Markup:
    model = node["kind"] == "model"
    if node["problem"]:
        note = node["problem"]
    elif model:
        same = node["model"].replace("-", "_") == node["node"]
        asked = {"live": "", f"version {node['version']}": " · pinned"}.get(node["wanted"], f" · {node['wanted']}")
        note = f"{'' if same else node['model'] + ' '}v{node['version']}{_beside(node)}{asked}"
    else:
        note = f"function · {node['version']}"
    inside = [
        tag("rect", x=x, y=y, width=BOX_W, height=BOX_H, rx=6, class_="box"),
        tag("rect", x=x, y=y + 8, width=3, height=BOX_H - 16, rx=1.5, class_="edge-mark"),
        tag("text", _short(node["node"], 21), x=x + 14, y=y + 20, class_="box-name"),
        tag("text", tag("title", note), _short(note, 25), x=x + 14, y=y + 36, class_="box-note"),
    ]
    state = "failed" if node["problem"] else "finished" if model else "waiting"
    told = f"{node['node']}: {note}"
    if model and node["version"]:
        return tag("a", *inside, href=f"/models/{node['model']}/{node['version']}", class_=f"box-link {state}", aria_label=told)
    return tag("g", *inside, class_=state, aria_label=told)


def _beside(node: _Node) -> str:
    return "".join(f", v{one['version']} {one['role']}" for one in node["beside"])


def _short(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 1]}…"
