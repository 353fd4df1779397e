"""Labels at full strength: partial, delayed, revised, of several writers, censored; the same rule offline and online."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.definitions import Label, Service, Table
from tidemill.core.errors import InvalidError
from tidemill.core.instants import HOUR_US
from tidemill.monitoring import Stated, label_states, push_labels
from tidemill.monitoring.embedded import SqliteLabelStore
from tidemill.monitoring.ports import LabelRow
from tidemill.monitoring.quality import labelled
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.ports import Prediction

LANDINGS = Table("landings", "files:x", event_time="landed_at", known_time="recorded_at")
WRITERS = ("desk", "table:landings")
LATE = Label("late", LANDINGS, "delay > 15", key="flight", matures="6h", writers=WRITERS)
SERVICE = Service("delay", ["distance"], LATE, LANDINGS, "flight", lead="1h")

_STATEMENT = st.builds(
    LabelRow,
    label=st.just("late"),
    key=st.sampled_from(["a", "b", "c", "nobody"]),
    value=st.none() | st.sampled_from([0.0, 1.0]),
    event_us=st.just(0),
    known_us=st.integers(0, 12).map(lambda h: h * HOUR_US),
    writer=st.sampled_from([*WRITERS, "api:x"]),
)


def reference(rows: list[LabelRow], served_us: int, key: str, at_us: int) -> tuple[str, float | None, bool]:
    """State, value and whether it was revised, by the definitions and nothing else."""
    best: LabelRow | None = None
    known = [r for r in rows if r.key == key and r.known_us <= at_us]
    for row in known:  # in the order of writing

        def rank(r: LabelRow) -> tuple[int, int]:
            return r.known_us, -(WRITERS.index(r.writer) if r.writer in WRITERS else len(WRITERS))

        if best is None or rank(row) >= rank(best):
            best = row
    ripe = served_us + HOUR_US + 6 * HOUR_US <= at_us
    value = None if best is None else best.value
    state = ("mature" if ripe else "early") if value is not None else ("censored" if ripe else "pending")
    return state, value, len({r.value for r in known}) > 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(_STATEMENT, max_size=6), max_size=4), st.integers(0, 14).map(lambda h: h * HOUR_US))
def test_any_history_of_statements_gives_the_states_of_the_reference(
    tmp_path_factory: pytest.TempPathFactory, writes: list[list[LabelRow]], at_us: int
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    labels, log, written = SqliteLabelStore(folder / "l.db"), SqlitePredictionLog(folder / "p.db"), list[LabelRow]()
    for rows in writes:
        labels.write(rows)
        written += [r for i, r in enumerate(rows) if r not in written and r not in rows[:i]]
    served = {"a": 0, "b": 2 * HOUR_US, "c": 5 * HOUR_US}
    log.append([Prediction(k, "delay", "delay", 1, "live", t, 0.5, ("distance",), (1.0,)) for k, t in served.items()])
    log.append([Prediction("b", "delay", "delay", 2, "shadow", served["b"], 0.5, ("distance",), (1.0,))])
    found = label_states(SERVICE, log=log, labels=labels, from_us=0, until_us=None, at_us=at_us)
    assert {r.key: (r.state, r.value, r.revised) for r in found.rows} == {k: reference(written, t, k, at_us) for k, t in served.items()}
    assert sum(n for state, n in found.counts.items() if state != "revised") == len(served)
    online = labelled(SERVICE, labels, np.array(list(served), dtype=object), from_us=0, at_us=at_us)
    assert [None if v != v else v for v in online.tolist()] == [reference(written, t, k, at_us)[1] for k, t in served.items()], "monitoring"
    labels.close()
    log.close()


def test_writers_at_one_time_are_asked_in_their_order(tmp_path: Path) -> None:
    labels = SqliteLabelStore(tmp_path / "l.db")
    labels.write([LabelRow("late", "a", 1.0, 0, 10, "desk")])
    labels.write([LabelRow("late", "a", 0.0, 0, 10, "table:landings")])
    assert labels.as_of("late", 10).column("value").to_pylist() == [0.0], "without an order the later statement counts"
    assert labels.as_of("late", 10, writers=WRITERS).column("value").to_pylist() == [1.0]
    labels.write([LabelRow("late", "a", 0.0, 0, 11, "api:x")])
    assert labels.as_of("late", 11, writers=WRITERS).column("value").to_pylist() == [0.0], "who knows more, whoever it is"


def push(labels: SqliteLabelStore, *stated: Stated, writer: str = "desk", label: Label = LATE) -> int:
    return push_labels(label, writer, stated, labels, now_us=100)


def test_a_push_states_and_takes_back(tmp_path: Path) -> None:
    labels = SqliteLabelStore(tmp_path / "l.db")
    assert push(labels, Stated("a", 1.0), Stated("b", 0.0, 5, 50)) == 2
    assert push(labels, Stated("a", 1.0)) == 0
    assert labels.history("late", "a") == [LabelRow("late", "a", 1.0, 100, 100, "desk")]
    assert push_labels(LATE, "desk", [Stated("a", None)], labels, now_us=101) == 1
    assert labels.as_of("late", 101, writers=WRITERS).column("key").to_pylist() == ["b"]


@pytest.mark.parametrize(
    ("stated", "given", "says"),
    [
        (Stated("a", 1.0), {"writer": "nobody"}, "names desk, table:landings"),
        (Stated("a", 1.0), {"writer": "table:landings"}, "how the label's own table is called"),
        (Stated("a", 1.0), {"writer": ""}, "cannot be the name"),
        (Stated("a", 1.0, known_us=101), {}, "still to come"),
        (Stated("a", 1.0, event_us=60, known_us=50), {}, "swap event and known"),
        (Stated("a", float("nan")), {}, "send 0, 1 or a number between"),
        (Stated("a", float("inf")), {}, "send 0, 1 or a number between"),
        (Stated("", 1.0), {}, "without a key"),
    ],
)
def test_a_wrong_push_changes_nothing(tmp_path: Path, stated: Stated, given: dict[str, Any], says: str) -> None:
    labels = SqliteLabelStore(tmp_path / "l.db")
    with pytest.raises(InvalidError, match=says):
        push(labels, Stated("good", 1.0), stated, **given)
    assert labels.as_of("late", 1000).num_rows == 0
    with pytest.raises(InvalidError, match="10,000"):
        push(labels, *[Stated("a", 1.0)] * 10_001)
