"""The declarative half of a project: what the user writes in Python, as frozen values.

Every stage reads these; none adds behaviour to them. Names follow Feast (entity, feature view, service).
A project's definitions are the module-level values of its `definitions.py`; nothing registers itself at import.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tidemill.core.aggregates import Aggregate, names_in
from tidemill.core.errors import InvalidError, not_found
from tidemill.core.graphs import Node, check_graph, owned
from tidemill.core.instants import DAY_US, parse_duration
from tidemill.core.rollouts import Rollout as Rollout

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def _named(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"{name!r} cannot name a {kind}: use lower case letters, digits, '_' and '-', starting with a letter, 63 at most"
        )


def _as_tuple(made: Any, field_name: str) -> None:
    """A single text where several are allowed is a tuple of one; no text is no text."""
    value = getattr(made, field_name)
    object.__setattr__(made, field_name, ((value,) if value else ()) if isinstance(value, str) else tuple(value))


@dataclass(frozen=True, slots=True)
class Entity:
    """What features are about. `key` is the column that identifies one (default: the name)."""

    name: str
    key: str = ""
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _named("entity", self.name)
        _as_tuple(self, "tags")
        if not self.key:
            object.__setattr__(self, "key", self.name)


@dataclass(frozen=True, slots=True)
class Table:
    """A named set of rows with two clocks.

    `source` is a URL (`files:data/landings`), or several whose rows all go into the table (`("files:data/landings", "push:")`).
    `event_time` and `known_time` name timestamp columns.
    `key` names the columns that identify a row over its corrections: of two rows with one key, the one with
    the greater known time replaces the other from that moment on. Without a key every row stands for itself.
    `pii` names columns that say something about a person: they are never logged or shown in clear. `skew` is how far the times of an
    event may lie ahead of its arrival on a stream (`"5m"`, `"30d"` for what is planned) before it is quarantined; empty: as configured.
    """

    name: str
    source: str | tuple[str, ...]
    event_time: str
    known_time: str
    key: str | tuple[str, ...] = ()
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    pii: str | tuple[str, ...] = ()
    skew: str = ""

    def __post_init__(self) -> None:
        _named("table", self.name)
        if self.skew:
            parse_duration(self.skew)
        for name in ("key", "pii", "tags"):
            _as_tuple(self, name)

    @property
    def sources(self) -> tuple[str, ...]:
        """The URLs of its sources, maybe none."""
        return tuple(url for url in ((self.source,) if isinstance(self.source, str) else self.source) if url)

    @property
    def pushed_as(self) -> str:
        """The name under which rows are pushed: that of a source `push:NAME`, the table's own for `push:`, empty when none are."""
        return next((url[5:] or self.name for url in self.sources if url.startswith("push:")), "")

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns, maybe none."""
        return self.key if isinstance(self.key, tuple) else (self.key,)

    @property
    def personal(self) -> frozenset[str]:
        """The columns that say something about a person."""
        return frozenset((self.pii,) if isinstance(self.pii, str) else self.pii)


@dataclass(frozen=True, slots=True)
class FeatureView:
    """Features of one entity (or a tuple of entities) computed from one table.

    A feature's full name is `view__feature`; the entity's key columns must exist in the table and in every spine. `freshness`
    promises how old the newest known row in the online state may be (`"15m"`); a broken promise is an alert.
    """

    name: str
    entity: Entity | tuple[Entity, ...]
    table: Table
    features: Sequence[Aggregate | tuple[Aggregate, ...]]
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    freshness: str = ""

    def __post_init__(self) -> None:
        _named("feature view", self.name)
        _as_tuple(self, "tags")
        if self.freshness:
            parse_duration(self.freshness)
        names = [a.name for a in self.aggregates]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise InvalidError(f"feature view {self.name!r} defines {', '.join(twice)} twice; give one of them name=")
        for i, a in enumerate(self.aggregates):
            before = set(names[:i])
            if missing := [n for n in names_in(a.expression) if n not in before] if a.expression else []:
                raise InvalidError(
                    f"the expression {a.name!r} of feature view {self.name!r} reads {', '.join(missing)}, which is no feature before it; "
                    f"there is {', '.join(names[:i]) or 'none'}"
                )

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """The features, flat."""
        return tuple(a for f in self.features for a in (f if isinstance(f, tuple) else (f,)))

    @property
    def entities(self) -> tuple[Entity, ...]:
        """The entities, always as a tuple."""
        return self.entity if isinstance(self.entity, tuple) else (self.entity,)

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns, in the entities' order."""
        return tuple(e.key for e in self.entities)

    @property
    def freshness_us(self) -> int | None:
        """How far the newest known time in the online state may lie behind the present; None where nothing is promised."""
        return parse_duration(self.freshness) if self.freshness else None

    def full_name(self, aggregate: Aggregate) -> str:
        """The column name of a feature in training sets, requests and logs."""
        return self.full_name_of(aggregate.name)

    def full_name_of(self, feature: str) -> str:
        """The same from the feature's name in its view."""
        return f"{self.name}__{feature}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Full names of all features, in order."""
        return tuple(self.full_name(a) for a in self.aggregates)


@dataclass(frozen=True, slots=True)
class OnDemand:
    """A pure function of request or feature columns: NumPy arrays in, one array of the same length out."""

    function: Callable[..., Any]

    @property
    def name(self) -> str:
        """The function's name; also the feature's."""
        return self.function.__name__

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns it reads: its parameter names."""
        return tuple(inspect.signature(self.function).parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself."""
        return self.function(*args, **kwargs)


def on_demand(function: Callable[..., Any]) -> OnDemand:
    """Make a function of columns an on-demand feature. Times arrive as `datetime64[us]`, UTC."""
    return OnDemand(function)


@dataclass(frozen=True, slots=True)
class Label:
    """What is predicted: an SQL expression over a table's row, joined by `key`, mature `matures_us` after the prediction's event.

    A prediction without a label is *pending* until then and *censored* after. Of several statements about a key the one with the
    greatest known time counts; between writers that knew at the same time, the one that stands first in `writers` (the table's
    rows are written by `table:NAME`; a writer that is not named comes after those that are), then the later statement.
    """

    name: str
    table: Table
    expression: str
    key: str
    matures: str = "1d"
    writers: tuple[str, ...] = ()
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _named("label", self.name)
        parse_duration(self.matures)
        _as_tuple(self, "writers")
        _as_tuple(self, "tags")
        if twice := sorted({w for w in self.writers if self.writers.count(w) > 1}):
            raise InvalidError(f"label {self.name!r} names writer {', '.join(twice)} twice; each has one place in the order")

    @property
    def matures_us(self) -> int:
        """How long after the event time of the spine row a label may still be expected."""
        return parse_duration(self.matures)


@dataclass(frozen=True, slots=True)
class Gate:
    """How a challenger must beat the champion: paired on the same rows, blocked by `block`, one-sided at `alpha`."""

    metric: Literal["log_loss", "brier"] = "log_loss"
    block: str = "1d"
    alpha: float = 0.05
    min_blocks: int = 5
    min_effect: float = 0.0


@dataclass(frozen=True, slots=True)
class Trigger:
    """A reason to retrain. `kind` is the cause a run will have."""

    kind: Literal["drift", "quality", "new_data", "schedule"]
    every_us: int = 0
    threshold: float = 0.0
    window_us: int = 7 * DAY_US
    cooldown_us: int = 0


def on_drift(threshold: float = 0.2, *, window: str = "7d", cooldown: str = "21d") -> Trigger:
    """Retrain when the population stability index of any input over `window` against the model's baseline passes `threshold`."""
    return Trigger("drift", threshold=threshold, window_us=parse_duration(window), cooldown_us=parse_duration(cooldown))


def on_quality(worse_by: float = 0.02, *, window: str = "7d", cooldown: str = "14d") -> Trigger:
    """Retrain when labelled quality is worse than at the gate by more than `worse_by`, with the interval's near end."""
    return Trigger("quality", threshold=worse_by, window_us=parse_duration(window), cooldown_us=parse_duration(cooldown))


def on_new_data(amount: str = "30d") -> Trigger:
    """Retrain when that much time of published data has come since the champion's training set ended."""
    return Trigger("new_data", every_us=parse_duration(amount))


def every(period: str) -> Trigger:
    """Retrain when the last run is that long ago."""
    return Trigger("schedule", every_us=parse_duration(period))


@dataclass(frozen=True, slots=True)
class Service:
    """A named endpoint: what it answers from, what it is judged by and when it learns again.

    `features` mixes feature views, on-demand features and names of request columns (str). Each row of `spine` is served
    once, `lead` before its event time, under the id in column `key`; `pipeline` is called with `until` and returns a model version.

    `degraded` says what to do while features cannot be read: `fail` (503), `default` (`degraded_defaults` by full name, else null),
    or `last_known` (what was read last for the same keys, at most `degraded_max_age` ago, else as `default`). Such answers say so.

    `graph`: models and functions that answer together (`sequence`, `ensemble`, `switch`, `splitter`); without one the service's own model answers.
    """

    name: str
    features: Sequence[FeatureView | OnDemand | str]
    label: Label
    spine: Table
    key: str
    lead: str = ""
    pipeline: Any = None
    gate: Gate = field(default_factory=Gate)
    rollout: Rollout = field(default_factory=Rollout)
    retrain: Sequence[Trigger] = ()
    degraded: Literal["fail", "default", "last_known"] = "fail"
    degraded_defaults: Mapping[str, Any] = field(default_factory=dict)
    degraded_max_age: str = "15m"
    graph: Any = None
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _named("service", self.name)
        _as_tuple(self, "tags")
        if self.key in self.spine.personal:
            raise InvalidError(
                f"column {self.key!r} identifies the predictions of service {self.name!r}, so it cannot be personal (pii of table "
                f"{self.spine.name!r}); use a key that says nothing about a person"
            )
        self._check_degraded()
        if (sticky := self.rollout.sticky) and sticky not in {*self.request_columns, *self.columns, self.key}:
            raise InvalidError(
                f"service {self.name!r} cannot be sticky by {sticky!r}: its requests do not have that column; they have "
                f"{', '.join(dict.fromkeys((*self.request_columns, self.key)))}"
            )
        if self.graph is not None:
            object.__setattr__(self, "graph", check_graph(self.name, self.graph, self.columns, {*self.request_columns, self.key}))
            self._check_own()

    @property
    def own_model(self) -> bool:
        """Whether a model of its own is behind it, which it trains and rolls out; a graph may be of others' models alone."""
        graph: Node | None = self.graph
        return graph is None or owned(graph) is not None

    def _check_own(self) -> None:
        if self.own_model:
            return
        given = {"pipeline": self.pipeline is not None, "retrain": bool(self.retrain), "rollout": self.rollout != Rollout()}
        if wrong := [name for name, there in given.items() if there]:
            raise InvalidError(
                f"service {self.name!r} has {' and '.join(f'{name}=' for name in wrong)}, and no node of its graph is its own model; put "
                "tm.model() into the graph, or leave that to the services whose models these are"
            )

    def _check_degraded(self) -> None:
        if self.degraded not in ("fail", "default", "last_known"):
            raise InvalidError(f"service {self.name!r}: degraded={self.degraded!r} is not one of fail, default, last_known")
        parse_duration(self.degraded_max_age)
        if self.degraded == "fail" and self.degraded_defaults:
            raise InvalidError(f"service {self.name!r} has degraded_defaults and fails instead; say degraded='default' or 'last_known'")

    @property
    def lead_us(self) -> int:
        """How long before its event time a spine row is served, in microseconds (0: at the event time)."""
        return parse_duration(self.lead) if self.lead else 0

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The feature views, in order."""
        return tuple(f for f in self.features if isinstance(f, FeatureView))

    @property
    def on_demand(self) -> tuple[OnDemand, ...]:
        """The on-demand features, in order; one may read those before it."""
        return tuple(f for f in self.features if isinstance(f, OnDemand))

    @property
    def columns(self) -> tuple[str, ...]:
        """The model's input columns, in order."""
        out: list[str] = []
        for feature in self.features:
            if isinstance(feature, FeatureView):
                out.extend(feature.columns)
            else:
                out.append(feature if isinstance(feature, str) else feature.name)
        return tuple(out)

    @property
    def request_columns(self) -> tuple[str, ...]:
        """What a request must carry when features are looked up: entity keys, request columns, inputs of on-demand features."""
        made = set(self.columns) - {f for f in self.features if isinstance(f, str)}
        wanted = [k for v in self.views for k in v.keys]
        wanted += [f for f in self.features if isinstance(f, str)]
        wanted += [i for f in self.on_demand for i in f.inputs if i not in made]
        return tuple(dict.fromkeys(wanted))


@dataclass(frozen=True, slots=True)
class FeatureService:
    """A named set of features that clients read together, without a model; as in Feast.

    `features` mixes feature views, on-demand features and names of single features (`"view:feature"`).
    """

    name: str
    features: Sequence[FeatureView | OnDemand | str]
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _named("feature service", self.name)
        _as_tuple(self, "tags")

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The feature views that it names as a whole, in order."""
        return tuple(f for f in self.features if isinstance(f, FeatureView))

    @property
    def on_demand(self) -> tuple[OnDemand, ...]:
        """The on-demand features, in order."""
        return tuple(f for f in self.features if isinstance(f, OnDemand))


@dataclass(frozen=True, slots=True)
class Definitions:
    """All that a project defines, by name."""

    tables: Mapping[str, Table] = field(default_factory=dict)
    views: Mapping[str, FeatureView] = field(default_factory=dict)
    labels: Mapping[str, Label] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    pipelines: Mapping[str, Any] = field(default_factory=dict)
    on_demand: Mapping[str, OnDemand] = field(default_factory=dict)
    feature_services: Mapping[str, FeatureService] = field(default_factory=dict)

    def service(self, name: str | None = None) -> Service:
        """A service by name; without one, the only one there is. Raises `NotFoundError`."""
        if name is None and len(self.services) == 1:
            return next(iter(self.services.values()))
        if name is None or name not in self.services:
            raise not_found("service", name or "", self.services)
        return self.services[name]
