"""The model card of a version, from what the ledger and the definitions know: nobody writes it, so it is never out of date.

Source: the headings follow Mitchell et al., "Model Cards for Model Reporting" (2019), as far as a ledger can fill them; what it cannot know it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from tidemill.api.queries import decisions, runs
from tidemill.core.definitions import Definitions, Service
from tidemill.core.errors import NotFoundError
from tidemill.core.instants import format_instant
from tidemill.ledger.store import Ledger
from tidemill.registry.ports import ModelVersion

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with sentences, facts and a table (its first row is the head)."""

    title: str
    facts: Facts = ()
    table: Sequence[Sequence[str]] = ()
    said: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Card:
    """A model card."""

    title: str
    sections: Sequence[Section]


def model_card(definitions: Definitions, ledger: Ledger, version: ModelVersion) -> Card:
    """The card of a version."""
    service = definitions.services.get(str(version.meta.get("service", version.name))) or definitions.services.get(version.name)
    with ledger.read() as db:
        about = decisions.about(db, version.name, version.version)
        try:
            run: Mapping[str, Any] = runs.one_run(db, version.run_id)
        except NotFoundError:
            run = {}
    gate = next((d for d in reversed(about) if d["kind"] == "gate"), None)
    sections = [
        _details(version, service),
        _use(service),
        _data(version, service),
        _features(version),
        _metrics(version),
        _gate(gate),
        Section(
            "Decisions",
            table=_rows(("when", "what", "outcome", "by"), [(_when(d["at_us"]), d["kind"], d["outcome"], d["actor"]) for d in about]),
        ),
        _limits(version, service, gate),
        _lineage(version, run),
    ]
    return Card(f"{version.name} version {version.version}", [s for s in sections if s.facts or s.said or len(s.table) > 1])


def _details(version: ModelVersion, service: Service | None) -> Section:
    meta = version.meta
    return Section(
        "Model",
        _facts(
            ("version", version.uri), ("status", ", ".join(dict.fromkeys((version.status, *version.aliases)))), ("library", meta.get("flavor")),
            ("registered", _when(version.at_us)), ("owner", service.owner if service else ""),
            ("parameters", ", ".join(f"{k} {v}" for k, v in meta.get("params", {}).items())), ("artifact", version.digest),
        ),
    )  # fmt: skip


def _use(service: Service | None) -> Section:
    if service is None:
        return Section("Use", said=("The service that it was trained for is not defined any more.",))
    lead = f", {service.lead} before {service.spine.event_time}" if service.lead else ""
    return Section(
        "Use",
        _facts(
            ("service", service.name), ("about", service.description), ("answers", f"{service.label.name}: {service.label.expression} of {service.label.table.name}"),
            ("for each", f"{service.key} of {service.spine.name}{lead}"), ("asks for", ", ".join(service.request_columns)),
        ),
    )  # fmt: skip


def _data(version: ModelVersion, service: Service | None) -> Section:
    meta, labels = version.meta, version.meta.get("labels", {})
    tables = {} if service is None else {t.name: t for t in (service.spine, service.label.table, *(v.table for v in service.views))}
    snapshots: Mapping[str, Any] = meta.get("snapshots", {})
    rows = []
    for name in dict.fromkeys((*snapshots, *tables)):
        table = tables.get(name)
        told = ("", "", "") if table is None else (table.owner, " ".join(table.tags), " ".join(sorted(table.personal)))
        rows.append((name, str(snapshots.get(name, "")), *told))
    return Section(
        "Data",
        _facts(
            ("period", f"{_when(meta.get('trained_from_us'))} to {_when(meta.get('trained_to_us'))}"), ("rows", meta.get("rows")),
            ("as known at", _when(meta.get("trained_until_us"))), ("labels", ", ".join(f"{n} {kind}" for kind, n in labels.items())),
            ("training set", meta.get("dataset")),
        ),
        _rows(("table", "snapshot", "owner", "tags", "personal columns"), rows),
    )  # fmt: skip


def _features(version: ModelVersion) -> Section:
    signature = version.meta.get("signature", {})
    texts = set(signature.get("categorical", ()))
    return Section(
        "Features", table=_rows(("column", "kind"), [(n, "text" if n in texts else "number") for n in signature.get("inputs", ())])
    )


def _metrics(version: ModelVersion) -> Section:
    evaluation: Mapping[str, Any] = version.meta.get("evaluation", {})
    slices: Mapping[str, Mapping[str, float]] = evaluation.get("slices", {})
    names = [name for name in version.metrics if name != "n"]
    rows = [("all", _number(version.metrics.get("n")), *(_number(version.metrics[n]) for n in names))]
    rows += [(where, _number(found.get("n")), *(_number(found.get(n)) for n in names)) for where, found in slices.items()]
    span = (evaluation.get("from_us"), evaluation.get("until_us"))
    facts = _facts(("held out", f"{_when(span[0])} to {_when(span[1])}")) if span[0] is not None else ()
    return Section("Quality on rows it was not trained on", facts, _rows(("rows", "n", *names), rows if names else ()))


def _gate(gate: Mapping[str, Any] | None) -> Section:
    if gate is None:
        return Section("Gate", said=("The gate has not looked at this version.",))
    e: Mapping[str, Any] = gate.get("evidence") or {}
    low, high = e.get("low"), e.get("high")
    interval = (
        f"{_number(e.get('effect'))} ({_number(low)} to {_number(high)}, {_number(e.get('level'))} interval)"
        if low is not None
        else e.get("effect")
    )
    against = f"version {e['champion']}" if e.get("champion") is not None else e.get("against")
    slices = [
        (str(s.get("slice", s.get("name", ""))), _number(s.get("n")), _number(s.get("effect")), _number(s.get("p")))
        for s in e.get("slices", ())
    ]
    return Section(
        "Gate",
        _facts(
            ("outcome", gate.get("outcome")), ("because", e.get("reason")), ("compared with", against), ("effect", interval), ("n", _number(e.get("n"))),
            ("p", _number(e.get("p"))), ("method", e.get("method")), ("rule", e.get("rule")), ("decision", gate.get("id")),
        ),
        _rows(("slice", "n", "effect", "p"), slices),
    )  # fmt: skip


def _limits(version: ModelVersion, service: Service | None, gate: Mapping[str, Any] | None) -> Section:
    meta = version.meta
    said = [f"It knows nothing of what became known after {_when(meta.get('trained_until_us'))}."]
    if texts := meta.get("signature", {}).get("categorical"):
        said.append(f"Values of {', '.join(texts)} that were not in its training rows all count as unknown.")
    if not meta.get("evaluation", {}).get("slices"):
        said.append("It was not measured by slices: how it does for single groups of rows is not on record.")
    if gate is None:
        said.append("It was never compared with another version on the same rows.")
    if pending := meta.get("labels", {}).get("pending"):
        said.append(f"{pending} rows of its period had no label yet when it was trained.")
    if service is not None and (personal := sorted({c for t in (service.spine, *(v.table for v in service.views)) for c in t.personal})):
        said.append(f"Personal columns lie behind its tables: {', '.join(personal)}.")
    return Section("Limits", said=said)


def _lineage(version: ModelVersion, run: Mapping[str, Any]) -> Section:
    code = run.get("code") or {}
    state = f"{code['commit']}{' with changes' if code.get('dirty') else ''}" if isinstance(code, Mapping) and code.get("commit") else ""
    cause = run.get("cause") or {}
    views = [(f"view {name}", digest) for name, digest in version.meta.get("views", {}).items()]
    return Section(
        "Lineage",
        _facts(
            ("run", version.run_id),
            ("pipeline", run.get("pipeline")),
            ("cause", cause.get("kind") if isinstance(cause, Mapping) else cause),
            ("code", state),
            *views,
        ),
    )


def _facts(*pairs: tuple[str, Any]) -> Facts:
    return tuple((name, str(value)) for name, value in pairs if value not in (None, "", {}, ()))


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[Sequence[str]]:
    return [head, *(tuple(map(str, row)) for row in rows)]


def _when(us: Any) -> str:
    return format_instant(int(us)) if isinstance(us, int) else "unknown"


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, int | float) else str(value or "")


def markdown(card: Card) -> str:
    """The card as Markdown."""
    out: list[str | None] = [f"# {_plain(card.title)}"]
    for section in card.sections:
        out += ["", f"## {section.title}", ""]
        out += [f"- {_plain(line)}" for line in section.said]
        out += [f"- **{name}**: {_plain(value)}" for name, value in section.facts]
        if len(section.table) > 1:
            head, *rows = section.table
            out += [
                "" if out[-1] else None,
                f"| {' | '.join(head)} |",
                f"|{'---|' * len(head)}",
                *(f"| {' | '.join(map(_plain, row))} |" for row in rows),
            ]
    return "\n".join(line for line in out if line is not None) + "\n"


def _plain(text: str) -> str:
    """A value that stays what it is in Markdown."""
    for sign in ("\\", "|", "<", "*", "`", "["):
        text = text.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return " ".join(text.split())


def html(card: Card) -> str:
    """The card as a page that needs nothing else."""
    out = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(card.title)}</title><style>{_STYLE}</style><h1>{escape(card.title)}</h1>"
    ]
    for section in card.sections:
        out.append(f"<h2>{escape(section.title)}</h2>")
        out += [f"<p>{escape(line)}</p>" for line in section.said]
        if section.facts:
            out.append("<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in section.facts) + "</dl>")
        if len(section.table) > 1:
            head, *rows = section.table
            cells = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row) + "</tr>" for row in rows)
            out.append("<table><tr>" + "".join(f"<th>{escape(v)}</th>" for v in head) + f"</tr>{cells}</table>")
    return "\n".join(out) + "\n</html>\n"


_STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}dl{display:grid;grid-template-columns:12rem 1fr;gap:.2rem 1rem}dt{color:#666}dd{margin:0;overflow-wrap:anywhere}table{border-collapse:collapse}td,th{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ddd}"
