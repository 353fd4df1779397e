"""What a project defines, as entries to be found."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.catalog.ports import Entry
from tidemill.core.aggregates import spelled
from tidemill.core.definitions import Definitions, FeatureView, Label, Service, Table


def entries(definitions: Definitions) -> list[Entry]:
    """Every table, feature view, feature, label and service, with owner, tags, columns and what is personal."""
    return [
        *map(_table, definitions.tables.values()),
        *(entry for view in definitions.views.values() for entry in _view(view)),
        *map(_label, definitions.labels.values()),
        *map(_service, definitions.services.values()),
    ]


def _facts(owner: str, tags: tuple[str, ...], **more: str) -> dict[str, str]:
    return {name: text for name, text in {"owner": owner, "tags": " ".join(tags), **more}.items() if text}


def _table(t: Table) -> Entry:
    columns = " ".join(dict.fromkeys((*t.keys, t.event_time, t.known_time)))
    source = t.source if isinstance(t.source, str) else " ".join(t.source)
    return Entry("table", t.name, t.description, _facts(t.owner, t.tags, columns=columns, pii=" ".join(sorted(t.personal)), source=source))


def _view(v: FeatureView) -> Iterator[Entry]:
    read = dict.fromkeys(str(a.column) for a in v.aggregates if a.column)
    more = {"table": v.table.name, "keys": " ".join(v.keys), "columns": " ".join(read), "freshness": v.freshness}
    yield Entry("feature view", v.name, v.description, _facts(v.owner, v.tags, **more))
    for a in v.aggregates:
        facts = _facts(v.owner, v.tags, view=v.name, table=v.table.name, column=str(a.column or ""))
        yield Entry("feature", v.full_name(a), spelled(a), facts | ({"pii": "yes"} if a.column in v.table.personal else {}))


def _label(label: Label) -> Entry:
    facts = _facts(label.owner, label.tags, table=label.table.name, expression=label.expression, writers=" ".join(label.writers))
    return Entry("label", label.name, label.description, facts)


def _service(s: Service) -> Entry:
    facts = _facts(s.owner, s.tags, columns=" ".join(s.columns), label=s.label.name, spine=s.spine.name)
    return Entry("service", s.name, s.description, facts)
