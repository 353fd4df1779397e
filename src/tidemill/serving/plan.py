"""A service compiled once for serving: which columns to look up, which to take from the request, which to compute.

Asking the registry or walking definitions for each request is what makes feature servers slow (Feast PR 4545), so all
that can be decided when a service is deployed is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.core.definitions import Service
from tidemill.core.errors import InvalidError, TidemillError
from tidemill.core.instants import parse_instant, to_us
from tidemill.features.ports import AT, FeatureReader
from tidemill.serving.degraded import DegradedReader, DegradedValues

Arrays = dict[str, npt.NDArray[Any]]
OnDemandFunction = Callable[[Service, Arrays], Arrays]
"""`tidemill.features.apply_on_demand`: computes the service's on-demand features from columns, in their order."""


class DegradedInputs(tuple[Any, ...]):  # noqa: SLOT001 - a tuple of any length cannot have slots
    """Model inputs of one request whose features could not be read. `mode`: what stands for them."""

    mode: str

    @classmethod
    def made(cls, row: tuple[Any, ...], mode: str) -> DegradedInputs:
        """Mark a row."""
        marked = cls(row)
        marked.mode = mode
        return marked


class Plan:
    """How a service gets its model's inputs. Made by `compile_plan`; safe to share between threads if the processor is."""

    def __init__(self, service: Service, processor: FeatureReader, on_demand: OnDemandFunction | None) -> None:
        self.service = service
        self.columns = service.columns
        self.needs = service.request_columns
        self._processor = processor
        self._on_demand = on_demand
        self._whole = frozenset(self.columns)
        self._carried = tuple(name for name in self.needs if name != AT)
        made = {f.name for f in service.on_demand}
        self._computed = tuple(name for name in self.columns if name in made)
        reads = dict.fromkeys(name for f in service.on_demand for name in f.inputs if name not in made)
        self._reads = tuple(reads)
        self._seen_texts: set[str] = set()
        self.used = frozenset((*self.columns, *self.needs))
        self.known = self.used | {service.key}
        self._times = frozenset((service.spine.event_time, service.spine.known_time, AT))
        self._words = self._times.union(*(view.keys for view in service.views))

    @property
    def numbers(self) -> frozenset[str]:
        """The keys that are whole numbers in the rows; empty while nobody can tell."""
        if not isinstance(self._processor, DegradedReader) or self._processor.reason:
            return frozenset()
        try:
            return self._processor.whole_keys(self.service.views)
        except TidemillError:  # nothing is published yet, or the store has just gone
            return frozenset()

    @property
    def texts(self) -> frozenset[str]:
        """The columns of a request that are times, or keys and no numbers."""
        return self._words - self.numbers

    def carries_inputs(self, request: Mapping[str, Any]) -> bool:
        """Whether a request brings every model input itself, so that nothing is looked up."""
        return self._whole <= request.keys()

    def can_look_up(self, request: Mapping[str, Any]) -> bool:
        """Whether a request has what features are looked up by."""
        return all(name in request for name in self._carried)

    def kept(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of a request is worth remembering beside the inputs: all of it, or what is no input when it carried them all."""
        return {k: v for k, v in request.items() if k not in self._whole} if self.carries_inputs(request) else request

    def inputs(self, requests: Sequence[Mapping[str, Any]], at_us: Sequence[int]) -> list[tuple[Any, ...]]:
        """Model inputs of each request, in `Service.columns` order: float, str or None for null.

        Args:
            requests: full inputs (all of `Service.columns`), or entity keys and request columns (`Service.request_columns`).
            at_us: the time of each request; features are those known then.

        Raises:
            InvalidError: a request lacks a column, or one has a value of the wrong kind; names it.
            UnavailableError: features cannot be read, and the service is to fail then. Else such rows are `DegradedInputs`.
        """
        out: list[tuple[Any, ...]] = [()] * len(requests)
        groups: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            if self.carries_inputs(request):
                out[i] = tuple(plain(name, request[name]) for name in self.columns)
            else:
                self._check(request)
                groups.setdefault(at_us[i], []).append(i)
        found: list[tuple[int, dict[str, Any]]] = []
        degraded: dict[int, str] = {}
        for at, places in groups.items():
            asked = [requests[i] for i in places]
            looked_up = self._processor.read(self.service.views, asked, at) if self.service.views else [{} for _ in asked]
            found += [(i, {**requests[i], **values, AT: at}) for i, values in zip(places, looked_up, strict=True)]
            degraded |= {i: values.mode for i, values in zip(places, looked_up, strict=True) if isinstance(values, DegradedValues)}
        for (i, _values), row in zip(found, self._rows([values for _i, values in found]), strict=True):
            out[i] = row if i not in degraded else DegradedInputs.made(row, degraded[i])
        return out

    @property
    def problem(self) -> str:
        """Why features cannot be read now; empty when they can."""
        return self._processor.reason if isinstance(self._processor, DegradedReader) else ""

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Have somebody told why features cannot be read, and, by an empty text, that they can again."""
        if isinstance(self._processor, DegradedReader):
            self._processor.watch(watcher)

    def _check(self, request: Mapping[str, Any]) -> None:
        if missing := [name for name in self._carried if name not in request]:
            raise InvalidError(
                f"the request lacks {', '.join(map(repr, missing))}; {self.service.name} looks features up by "
                f"{', '.join(self._carried)}, or takes all of {', '.join(self.columns)}"
            )

    def _rows(self, values: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        if not values:
            return []
        made = self._compute(values)
        columns = [made[name] if name in made else [plain(name, row[name]) for row in values] for name in self.columns]
        return list(zip(*columns, strict=True))

    def _compute(self, values: list[dict[str, Any]]) -> dict[str, list[Any]]:
        if not self._computed or self._on_demand is None:
            return {}
        arrays = {name: self._array(name, [row[name] for row in values]) for name in self._reads}
        computed = self._on_demand(self.service, arrays)
        self._seen_texts.update(name for name, array in arrays.items() if array.dtype == object)  # only now: the functions take them
        out: dict[str, list[Any]] = {}
        for name in self._computed:
            column = computed[name].tolist()
            if len(column) != len(values):
                raise InvalidError(f"the on-demand feature {name!r} returned {len(column)} values for {len(values)} rows")
            out[name] = [plain(name, value) for value in column]
        return out

    def _array(self, name: str, values: list[Any]) -> npt.NDArray[Any]:
        return as_array(name, values, time=name in self._times, text=name in self._seen_texts)


def compile_plan(service: Service, processor: FeatureReader, on_demand: OnDemandFunction | None = None) -> Plan:
    """Decide once how `service` gets its model's inputs.

    Args:
        service: its definition.
        processor: where looked-up features are read.
        on_demand: `tidemill.features.apply_on_demand`; needed when the service has on-demand features.
    """
    if service.on_demand and on_demand is None:
        raise InvalidError(f"{service.name} has on-demand features ({', '.join(f.name for f in service.on_demand)}); pass on_demand=")
    return Plan(service, processor, on_demand)


def plain(name: str, value: Any) -> Any:
    """A model input as it is logged: float, str, or None for null (NaN is null). Raises `InvalidError` for anything else."""
    kind = type(value)
    if kind is float:
        return value if value == value else None
    if kind is str or value is None:
        return value
    if kind is int or kind is bool or isinstance(value, np.number | np.bool_):
        number = float(value)
        return number if number == number else None
    if isinstance(value, str):
        return str(value)
    raise InvalidError(f"column {name!r} is {kind.__name__}; a model input is a number, a text or null")


def as_array(name: str, values: list[Any], *, time: bool = False, text: bool = False) -> npt.NDArray[Any]:
    """One column for an on-demand function: float64 with NaN, datetime64[us] with NaT, or texts as objects with None.

    Args:
        name: for the error message.
        values: what the requests carry or the look-up found.
        time: whether texts and integers mean a time (ISO 8601, microseconds).
        text: whether a column of nulls alone is one of texts.
    """
    kinds = {type(value) for value in values if value is not None}
    if time or any(issubclass(kind, datetime | np.datetime64) for kind in kinds):
        return np.array([_time(name, value) for value in values], dtype="datetime64[us]")
    if (text and not kinds) or (kinds and all(issubclass(kind, str) for kind in kinds)):
        return np.array(values, dtype=object)
    if not all(issubclass(kind, int | float | np.number | np.bool_) for kind in kinds):
        raise InvalidError(f"column {name!r} mixes {', '.join(sorted(k.__name__ for k in kinds))}; send numbers, texts or times")
    return np.array(values, dtype=np.float64)


def _time(name: str, value: Any) -> np.datetime64:
    if value is None:
        return np.datetime64("NaT", "us")
    if isinstance(value, np.datetime64):
        moment: np.datetime64 = value.astype("datetime64[us]")
        return moment
    if isinstance(value, datetime):
        return np.datetime64(to_us(value), "us")
    if isinstance(value, str):
        try:
            return np.datetime64(parse_instant(value), "us")
        except InvalidError as error:
            raise InvalidError(f"column {name!r}: {error}") from error
    if isinstance(value, int) and not isinstance(value, bool):
        return np.datetime64(value, "us")
    raise InvalidError(f"column {name!r} is a time: send ISO 8601 text or integer microseconds, not {type(value).__name__}")
