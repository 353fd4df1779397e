"""Time series as Plotly figures, written down as the JSON its script reads.

Colours are roles (`tide`, `ink`, `soft`, `warn`, `bad`, with `/0.2` for opacity); the page's script turns them into the theme's own,
so one figure serves light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.instants import from_us

Figure = dict[str, Any]
PALETTE = ("soft", "warn", "tide", "bad", "ink")


def _time(us: int) -> str:
    return from_us(us).strftime("%Y-%m-%d %H:%M")


def _line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **more: Any) -> Figure:
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "line": {"color": colour, "width": 1.8}, **more}


def _band(x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], colour: str) -> list[Figure]:
    quiet: Figure = {"hoverinfo": "skip", "showlegend": False, "line": {"width": 0, "color": f"{colour}/0"}}
    return [_line("", x, low, colour) | quiet, _line("", x, high, colour) | quiet | {"fill": "tonexty", "fillcolor": f"{colour}/0.14"}]


def _marks(marks: Sequence[tuple[int, str]], colour: str = "soft") -> tuple[list[Figure], list[Figure]]:
    """Vertical lines with a word at their top."""
    shapes = [
        {
            "type": "line",
            "x0": _time(at),
            "x1": _time(at),
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": f"{colour}/0.55", "width": 1, "dash": "dot"},
        }
        for at, _ in marks
    ]
    texts = [
        {
            "x": _time(at),
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "showarrow": False,
            "text": word,
            "font": {"size": 11, "color": colour},
        }
        for at, word in marks
    ]
    return shapes, texts


def _figure(traces: list[Figure], *, height: int, y: str = "", legend: bool = False, **layout: Any) -> Figure:
    return {"data": traces, "layout": {"height": height, "showlegend": legend, "yaxis": {"title": {"text": y}}, **layout}}


def _from_to(span: tuple[int, int] | None) -> Figure:
    """The time axis of charts that stand above each other."""
    return {"range": [_time(at) for at in span]} if span else {}


def quality(
    objective: str, rows: Sequence[Mapping[str, Any]], marks: Sequence[tuple[int, str]], span: tuple[int, int] | None = None
) -> Figure:
    """An objective over time with its interval; deployments as vertical lines."""
    x = [_time(r["until_us"]) for r in rows]
    traces: list[Figure] = []
    if any(r["low"] is not None for r in rows):
        traces += _band(x, [r["low"] for r in rows], [r["high"] for r in rows], "tide")
    notes = [f"{r['covered']:,} of {r['n']:,} labelled" for r in rows]
    traces.append(_line(objective, x, [r["value"] for r in rows], "tide", text=notes, hovertemplate="%{y:.4f}<br>%{text}<extra></extra>"))
    shapes, texts = _marks(marks)
    figure = _figure(traces, height=330, y=objective.replace("_", " "), shapes=shapes, annotations=texts)
    return figure | {"axes": {"x": _from_to(span)}}


def coverage(rows: Sequence[Mapping[str, Any]], span: tuple[int, int] | None = None) -> Figure:
    """Share of served rows that have met their label."""
    x = [_time(r["until_us"]) for r in rows]
    y = [r["covered"] / r["n"] if r["n"] else None for r in rows]
    trace = _line("labelled", x, y, "soft", fill="tozeroy", fillcolor="soft/0.12", hovertemplate="%{y:.1%} labelled<extra></extra>")
    axis = {"range": [0, 1.04], "tickformat": ".0%", "nticks": 3}
    return _figure([trace], height=120, y="labelled") | {"axes": {"y": axis, "x": _from_to(span)}}


def drift(rows: Sequence[Mapping[str, Any]], threshold: float | None, span: tuple[int, int] | None = None) -> Figure:
    """The strongest input drift of each window, and where it starts a run."""
    notes = [str((r["body"] or {}).get("column", "")) for r in rows]
    x = [_time(r["until_us"]) for r in rows]
    trace = _line(
        "psi", x, [r["value"] for r in rows], "tide", mode="lines+markers", text=notes, hovertemplate="%{y:.3f}<br>%{text}<extra></extra>"
    )
    shapes: list[Figure] = []
    if threshold:
        shapes = [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": threshold,
                "y1": threshold,
                "line": {"color": "warn", "width": 1, "dash": "dash"},
            }
        ]
    return _figure([{**trace, "marker": {"size": 5, "color": "tide"}}], height=240, y="strongest PSI", shapes=shapes) | {
        "axes": {"x": _from_to(span)}
    }


def sequence(looks: Sequence[Mapping[str, Any]], margin: float) -> Figure:
    """A confidence sequence: the running difference with the interval that holds at every look at once."""
    x = [_time(look["at_us"]) if look.get("at_us") else look.get("n") for look in looks]
    low, high = [look.get("low") for look in looks], [look.get("high") for look in looks]
    notes = [f"{look.get('n', 0):,} labelled" for look in looks]
    trace = _line(
        "difference", x, [look["effect"] for look in looks], "tide", text=notes, hovertemplate="%{y:+.4f}<br>%{text}<extra></extra>"
    )
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": "soft", "width": 1}}
    edge = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": margin,
        "y1": margin,
        "line": {"color": "bad", "width": 1, "dash": "dash"},
    }
    return _figure([*_band(x, low, high, "tide"), trace], height=260, y="canary − live", shapes=[zero, edge] if margin else [zero])


def scores(found: Mapping[str, Sequence[float]]) -> Figure:
    """Two histograms of scores over the same bins, as steps."""
    edges = list(found["edges"])
    traces = []
    for name, colour in (("logged", "soft"), ("candidate", "tide")):
        counts = [*found[name], found[name][-1]]
        trace = _line(
            name, edges, counts, colour, hovertemplate=f"{name} %{{y:,}}<extra></extra>", fill="tozeroy", fillcolor=f"{colour}/0.12"
        )
        traces.append(trace | {"line": {"color": colour, "width": 1.8, "shape": "hv"}})
    return _figure(traces, height=260, y="requests", legend=True) | {"axes": {"x": {"type": "linear", "title": {"text": "score"}}}}


def load_rate(history: Sequence[Sequence[float | None]]) -> Figure:
    """Calls and failures a second of a load test."""
    x = [row[0] for row in history]
    traces = [
        _line(
            "calls",
            x,
            [row[2] for row in history],
            "tide",
            fill="tozeroy",
            fillcolor="tide/0.12",
            hovertemplate="%{y:,.0f}/s<extra></extra>",
        ),
        _line("failures", x, [row[3] for row in history], "bad", hovertemplate="%{y:,.1f}/s failed<extra></extra>"),
    ]
    return _figure(traces, height=220, y="a second", legend=True) | {"axes": {"x": {"type": "linear", "title": {"text": "seconds"}}}}


def load_latency(history: Sequence[Sequence[float | None]]) -> Figure:
    """Percentiles of a load test's latency."""
    x = [row[0] for row in history]
    named = ((4, "median", "tide"), (5, "95 %", "soft"), (6, "99 %", "warn"))
    traces = [
        _line(name, x, [row[i] for row in history], colour, hovertemplate=f"{name}: %{{y:,.0f}} ms<extra></extra>")
        for i, name, colour in named
    ]
    return _figure(traces, height=240, y="ms", legend=True) | {"axes": {"x": {"type": "linear", "title": {"text": "seconds"}}}}


def curve(name: str, points: Sequence[tuple[int, float]]) -> Figure:
    """A metric by step."""
    trace = _line(name, [s for s, _ in points], [v for _, v in points], "tide", hovertemplate="step %{x}: %{y:.5g}<extra></extra>")
    return _figure([trace], height=200) | {"axes": {"x": {"type": "linear"}}}


def weeks(replay: Mapping[str, Any]) -> Figure:
    """Served log loss by week, one line per policy; the primary one is drawn strongest, with its promotions and rollbacks."""
    primary = replay.get("primary", "")
    ranked = sorted(
        replay["policies"], key=lambda p: (p["name"] == primary, p["name"] == "never")
    )  # the filled line needs its floor just before it
    traces: list[Figure] = []
    for i, policy in enumerate(ranked):
        mine, never = policy["name"] == primary, policy["name"] == "never"
        colour = "tide" if mine else "soft" if never else ("warn", "ink", "bad")[i % 3]
        x, y = [_time(w["week_us"]) for w in policy["weeks"]], [w["log_loss"] for w in policy["weeks"]]
        line = {"color": colour, "width": 3 if mine else 1.6, "dash": "dot" if never else "solid"}
        trace = _line(policy["name"], x, y, colour, hovertemplate=f"{policy['name']} %{{y:.4f}}<extra></extra>") | {"line": line}
        saved = mine and i > 0 and ranked[i - 1]["name"] == "never"
        traces.append(trace | {"fill": "tonexty", "fillcolor": "tide/0.10"} if saved else trace)
        if mine:
            traces += _events(policy)
    return _figure(traces, height=400, y="served log loss", legend=True, hovermode="x unified")


def _events(policy: Mapping[str, Any]) -> list[Figure]:
    """Promotions and rollbacks as marks on the policy's own line."""
    weeks = [w for w in policy["weeks"] if w["log_loss"] is not None]
    out = []
    for kinds, symbol, colour, name in ((("live", "promote"), "circle", "tide", "promotion"), (("rollback",), "x", "bad", "rollback")):
        found = [e for e in policy.get("events", []) if e["kind"] in kinds and weeks and not e["text"].startswith("gate")]
        spots = [min(weeks, key=lambda w: abs(w["week_us"] - e["at_us"])) for e in found]
        if found:
            out.append({
                "type": "scatter", "mode": "markers", "name": name, "x": [_time(w["week_us"]) for w in spots], "y": [w["log_loss"] for w in spots],
                "text": [e["text"] for e in found], "hovertemplate": "%{text}<extra></extra>",
                "marker": {"size": 10, "symbol": symbol, "color": colour, "line": {"width": 2, "color": "paper"}},
            })  # fmt: skip
    return out
