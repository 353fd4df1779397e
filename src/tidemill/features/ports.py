"""Feature values: offline for many rows at their own times, online for one request now. Both must be equal."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from tidemill.core.definitions import FeatureView
from tidemill.versioning.ports import Scan

AT = "at"
"""Name of the spine column that holds each row's own time, timestamp('us', 'UTC')."""
MAX_KEYS = 50_000
"""Requests that one `FeatureReader.read` answers; more are an `InvalidError`."""
MAX_VALUE_BYTES = 1 << 20
"""Bytes of one text or binary value that `StreamProcessor.push` takes; a larger one refuses the whole piece."""
MAX_STATE_BYTES = 64 << 20
"""Bytes of one state that `OnlineStore.write` takes."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One source row as `explain` shows it. `use`: why it counts or does not, at the spine row's time."""

    view: str
    table: str
    values: Mapping[str, Any]
    event_us: int
    known_us: int
    use: Literal["used", "not_yet_known", "not_yet_happened", "out_of_window", "superseded", "not_latest", "filtered"]


class OfflineStore(Protocol):
    """Feature values of many spine rows, computed from tables.

    Guarantees, each checked by `tidemill.testing.features.OfflineStoreContract` against a plain reference:
        leak-free: a source row counts at t only if its event time and its known time are both <= t.
        superseded: of rows with one table key, the one with the greatest known time <= t counts (ties: the last one ingested).
        windows: an aggregate over (over, hop) covers event times in (floor(t - over, hop), t].
        latest: greatest event time, ties greatest known time, ties ingestion order; null once older than ttl.
        aligned: one output row per spine row, in the spine's order, every spine column kept.
        repeatable: rows known later than every spine time change nothing.
    """

    def join(self, spine: pa.Table, views: Sequence[FeatureView], scans: Mapping[str, Scan]) -> pa.Table:
        """Append the views' columns to `spine` (which has `at` and all key columns). `scans` maps table name to where its rows are. Raises `InvalidError` for missing columns or naive times."""
        ...

    def explain(self, row: Mapping[str, Any], view: FeatureView, scan: Scan, *, limit: int = 200) -> list[SourceRow]:
        """Source rows around one spine row (keys and `at` as int us): those used, and those near it that were not, with the reason."""
        ...


class OnlineStore(Protocol):
    """State of features by view and key, small and constant per key.

    Guarantees, each checked by `tidemill.testing.features.OnlineStoreContract`:
        atomic: states and the cursor of one `write` are all there or none; a crash between writes leaves the older whole state.
        aligned: `read` answers one item per asked (view, key), in order, None where there is none.
        isolated: views do not see each other's keys.
        durable: what `write` returned for survives kill -9.
        whole: None means never written, cleared or expired. A state that was lost otherwise is a `LostError`, and named by `lost`.
        expiring: a state may be None from its `expires_us` on, never before; `sweep` forgets all that are due.
    """

    def write(
        self, states: Mapping[tuple[str, str], bytes], cursors: Mapping[str, str], expires_us: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        """Replace the states of (view, key) and the named cursors, in one transaction.

        Args:
            states: bodies of at most `MAX_STATE_BYTES`.
            cursors: texts by name.
            expires_us: from when on a state matters no more, by the writer's clock; those that are not named stay.

        Raises:
            InvalidError: a body is too large; nothing was written.
            LostError: the store is not as this writer left it; its states have to be made anew.
        """
        ...

    def read(self, keys: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """States of (view, key), in one round trip whatever their number. Raises `UnavailableError` when the store does not answer in time, `LostError`."""
        ...

    def sweep(self, now_us: int) -> int:
        """Forget the states whose `expires_us` is at or before `now_us`; return how many there were."""
        ...

    def lost(self) -> list[str]:
        """Views some of whose states were lost; looks at every key, so ask when a writer starts."""
        ...

    def cursors(self) -> dict[str, str]:
        """All cursors: how far each table's rows have gone in."""
        ...

    def clear(self, view: str) -> None:
        """Forget all keys and the cursor of a view."""
        ...


class States(NamedTuple):
    """States of keys of one view, as columns of one length: keys, bodies, and the microsecond (by the writer's clock) from which on each matters no more."""

    keys: Sequence[str]
    bodies: Sequence[bytes]
    expires_us: Sequence[int]


@runtime_checkable
class BulkStore(OnlineStore, Protocol):
    """An `OnlineStore` that can also take the states of a whole view at once, at less cost than by `write`.

    Guarantees, each checked by `tidemill.testing.features.BulkStoreContract`:
        filling: `fill` leaves what a `write` of each batch would have left; a crash leaves whole batches.
    """

    def fill(self, view: str, batches: Iterable[States]) -> None:
        """Replace the states of many keys of a view, each batch in a transaction of its own; quickest when keys rise, also from batch to batch.

        Raises what `write` raises, and what `batches` raises; the batches before are written.
        """
        ...


Grid = tuple[Sequence[str], Sequence[str]]
"""Views, and keys: the state of each of the keys in each of the views."""


@runtime_checkable
class GridStore(OnlineStore, Protocol):
    """An `OnlineStore` that can also read the states of the same keys in several views, at less cost than by `read`.

    Guarantees, each checked by `tidemill.testing.features.GridStoreContract`:
        grids: `read_grids` answers what one `read` of all of it would have answered, as of one moment.
    """

    def read_grids(self, grids: Sequence[Grid]) -> list[list[Sequence[bytes | None]]]:
        """For each grid, for each of its views, the states of its keys in order. Raises what `read` raises."""
        ...


class FeatureReader(Protocol):
    """Answers requests from online state. Guarantees: those of `StreamProcessor` that speak of reading, as of its last `commit`."""

    def read(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[dict[str, Any]]:
        """Feature values by full name for each request at time `at_us`; unknown keys give nulls (and 0 for counts). Raises `InvalidError` for a key that a request lacks, and for a time too long ago."""
        ...


class Found(NamedTuple):
    """What a look-up found of one view for one key.

    `values` by full name, as `FeatureReader.read` answers them. `event_us` is the event time of the newest row behind the view's `latest`
    features, 0 where there is none any more. `known`: whether any row up to now has named the key.
    """

    values: dict[str, Any]
    event_us: int
    known: bool


class FeatureLookup(Protocol):
    """What a feature server asks: values of the present, and where they stand.

    Guarantees, each checked by `tidemill.testing.lookup.FeatureLookupContract`:
        equal: the values are those that `FeatureReader.read` gives.
        told: a key is `known` once a row that has happened names it, and stays so when all its values are past their ttl.
        fresh: a row that was pushed counts for `latest` features (without `where`) after `look`, before the processor has taken it.
    """

    def find(self, views: Sequence[FeatureView], keys: Sequence[Mapping[str, Any]], at_us: int) -> list[list[Found]]:
        """What there is for each request, view by view. Raises `InvalidError` for a key that a request lacks or state of other definitions."""
        ...

    def look(self) -> None:
        """See what has been pushed up to now; `find` does so by itself every few hundredths of a second."""
        ...


class VersionedReader(FeatureReader, Protocol):
    """A `FeatureReader` that reads any published version of a view, also one that the definitions no longer have."""

    def current(self, view: str) -> FeatureView | None:
        """The version of a view that is current, None where nothing is published."""
        ...

    def version(self, digest: str) -> FeatureView | None:
        """The version with a digest, None unless it is published."""
        ...

    def known_us(self) -> dict[str, int]:
        """The greatest known time in the current state of each view that has rows, by view name."""
        ...

    def whole_keys(self, views: Sequence[FeatureView]) -> frozenset[str]:
        """The columns among the views' keys that are whole numbers in the rows, as far as anybody knows. Raises `InvalidError` for a view that cannot be read."""
        ...


Status = Literal["absent", "building", "complete", "published"]
"""Of online state: nothing there; rows are going in; all rows are in, and it waits to be published; it may be read."""


@dataclass(frozen=True, slots=True)
class ViewState:
    """The online state of one version of a view. `mark` is what the last `commit` was told; `wanted`: the definitions have this version.

    `current`: what a reader gets that asks for the view by name. `known_us` is the greatest known time of a row in it.
    """

    view: FeatureView
    digest: str
    status: Status
    wanted: bool
    current: bool = False
    known_us: int | None = None
    mark: str = ""


class StreamProcessor(FeatureReader, Protocol):
    """Turns table rows, as they become known, into online state. One writes to a store; other processes use a `FeatureReader`.

    Each version of a view has state of its own. Versions are known by their digest, so a version is never read as another one.

    A processor may run out of process (a Flink or Spark job of which this object is the client): it is told rows, marks and times by
    nothing but these methods, and shares no memory with its caller. Such a one keeps what the embedded one keeps. `push` answers when
    the job has judged the rows, since it says how many were new; `commit` when a checkpoint holds rows and marks together. After a
    restart of either side `versions` tells the marks of that checkpoint, and what came later is gone: the caller sends it again, and
    maybe more, so rows are told apart by key, times and values. `advance` is a watermark that lets state go, never a row that is late.
    Windows and `latest` are as the offline store's, to the microsecond, and what a checkpoint wrote a `FeatureReader` reads.

    Guarantees, each checked by `tidemill.testing.processors.StreamProcessorContract`:
        equal: reading at t, after all rows visible at t went in, equals `OfflineStore.join` at t.
        exactly once: a row pushed again (same key, times and values) changes nothing; kill -9 and a restart from the cursor equal an undisturbed run.
        patient: a row whose event time is still ahead is kept and counts from that time on.
        rewinding: a time up to a day before the newest read (or `advance`) can be read again.
        versioned: a version cannot be read before it is published; meanwhile the one before it can, and goes on taking rows.
        marked: the mark of a `commit` is there when, and only when, what was pushed before it is.
    """

    def versions(self) -> Sequence[ViewState]:
        """State of every version that the store has, and of every view of the definitions (maybe absent), by name."""
        ...

    def push(self, table: str, rows: pa.Table, *, only: Collection[str] | None = None) -> int:
        """Take rows of a table (any order); return how many were new to some version. `only`: digests of the versions that take them, all when None.

        A view that has no state at all begins with these rows, and is published by the next `commit`.
        """
        ...

    def advance(self, at_us: int) -> None:
        """Say that time has come to `at_us`, so that `commit` can tidy what is older; reads say so as well."""
        ...

    def commit(self, marks: Mapping[str, str] | None = None) -> None:
        """Make everything pushed so far durable, with a mark for each of the versions (digests) named."""
        ...

    def reset(self, view: str) -> None:
        """Begin the state of the definitions' version of a view anew, beside that of its other versions; its rows have to be pushed. It can be read once it is published."""
        ...

    def publish(self, digests: Mapping[str, bool]) -> None:
        """Let versions be read and be the current ones of their views (True), or say that they are complete (False), in one transaction."""
        ...

    def drop(self, digest: str) -> None:
        """Forget the state of a version. Raises `ConflictError` for one that is current."""
        ...


@runtime_checkable
class BulkProcessor(StreamProcessor, Protocol):
    """A `StreamProcessor` that can also take a whole table from its files, which is several times quicker than pushing its rows.

    Guarantees, each checked by `tidemill.testing.processors.BulkProcessorContract`:
        bulk: `load` gives the state that pushing all rows of the table would have given; pushes go on from there.
    """

    def load(self, digest: str, scan: Scan, *, at_us: int) -> int:
        """Begin the state of a version anew from all rows of its table, as of `at_us`; return how many can still count.

        Durable with the next `commit`; killed before it, the version has to be begun again. Rows known later than `at_us` wait until then.
        """
        ...


class Served(Protocol):
    """What parity asks of a logged prediction; `tidemill.serving.ports.Prediction` is one."""

    @property
    def id(self) -> str:
        """Names the prediction."""
        ...

    @property
    def at_us(self) -> int:
        """The time it was answered for."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of `values`."""
        ...

    @property
    def values(self) -> tuple[Any, ...]:
        """Model inputs as used; None is null."""
        ...

    @property
    def request(self) -> Mapping[str, Any]:
        """What was asked, with the entity keys."""
        ...

    @property
    def degraded(self) -> str:
        """Empty, or what stood for features that could not be read."""
        ...


@dataclass(frozen=True, slots=True)
class Difference:
    """One served value that the offline path does not confirm. `likely` guesses the cause (float32, timezone, null, late row …)."""

    prediction: str
    column: str
    served: Any
    expected: Any
    likely: str


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Outcome of comparing served rows with the offline path, value by value (floats to 1e-9 relative). `excluded`: columns that were not compared, and why.

    `degraded`: rows that were left out, as they were answered while features could not be read.
    """

    service: str
    rows: int
    values: int
    differences: int
    examples: tuple[Difference, ...]
    by_column: Mapping[str, int]
    excluded: Mapping[str, str] = field(default_factory=dict)
    degraded: int = 0
