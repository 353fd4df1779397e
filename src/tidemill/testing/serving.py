"""What every runtime, router and prediction log must keep."""

from __future__ import annotations

import math
import pickle
import threading
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.errors import InvalidError, RefusedError, UnavailableError
from tidemill.serving.ports import THIN, Deployment, Part, Prediction, PredictionLog, Router, Runtime, Visit
from tidemill.testing.contract import Contract, keeps
from tidemill.testing.kills import Report, until_killed
from tidemill.testing.models import write_linear_model

Write = Callable[..., Path]
"""Writes a model folder as `write_linear_model` does."""


class _Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


class RuntimeContract(Contract):
    """Supply a `runtime` fixture, and `write` for another flavor than ONNX: it writes the model that `write_linear_model` does.

    `rtol` is how far the flavor's arithmetic may lie from float64's; `explains`: whether such models tell contributions.
    """

    rtol = 1e-12
    explains = False

    @pytest.fixture
    def write(self) -> Write:
        return write_linear_model

    @pytest.fixture
    def folder(self, tmp_path: Path, write: Write) -> Path:
        """A good model of two numbers and a text."""
        weights = {"a": 1.5, "b": -0.25, "carrier": 0.1}
        return write(tmp_path / "model", weights, categories={"carrier": ["AA", "UA"]}, example=[[1.0, 2.0, "UA"]])

    def test_scores_texts_and_nulls(self, runtime: Runtime, folder: Path) -> None:
        model = runtime.load(folder)
        assert model.features == ("a", "b", "carrier")
        assert model.texts == {"carrier"}
        got = model.predict([(1.0, 2.0, "UA"), (None, 4.0, "never seen"), (3.0, None, None)])
        want = [1 / (1 + math.exp(-z)) for z in (1.5 - 0.5 + 0.1, -1.0 - 0.1, 4.5 - 0.1)]
        np.testing.assert_allclose(got, want, rtol=self.rtol)
        assert got.dtype == np.float64

    def test_equal_one_row_and_a_batch_score_the_same(self, runtime: Runtime, folder: Path) -> None:
        model = runtime.load(folder)
        rows = [(v, 1 / (v + 1), "AA" if v % 3 else None) for v in map(float, range(200))]
        assert [model.predict([row])[0] for row in rows] == model.predict(rows).tolist()

    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("name", ["model.pkl", "notes.txt", "data/weights.bin"])
    def test_safe_pickles_are_refused_whatever_their_name(
        self, runtime: Runtime, folder: Path, tmp_path: Path, name: str, protocol: int
    ) -> None:
        trap = tmp_path / "executed"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(_Payload(str(trap)), protocol=protocol))
        with pytest.raises(RefusedError, match="pickle"):
            runtime.load(folder)
        assert not trap.exists()

    def test_safe_a_pickle_inside_a_zip_is_refused(self, runtime: Runtime, folder: Path, tmp_path: Path) -> None:
        trap = tmp_path / "executed"
        with zipfile.ZipFile(folder / "archive.bin", "w") as archive:
            archive.writestr("archive/data", pickle.dumps(_Payload(str(trap))))
        with pytest.raises(RefusedError, match="pickle"):
            runtime.load(folder)
        assert not trap.exists()

    def test_safe_a_pickle_in_the_model_s_place_is_refused(self, runtime: Runtime, folder: Path, tmp_path: Path) -> None:
        trap = tmp_path / "executed"
        files = [path for path in folder.iterdir() if path.name.startswith(("model.", "function."))]
        assert files
        for path in files:
            path.write_bytes(pickle.dumps(_Payload(str(trap))))
        with pytest.raises(RefusedError):
            runtime.load(folder)
        assert not trap.exists()

    def test_warmed_a_model_that_fails_its_example_is_refused(self, runtime: Runtime, tmp_path: Path, write: Write) -> None:
        nan = write(tmp_path / "nan", {"a": math.nan}, example=[[1.0]])
        with pytest.raises(RefusedError, match="example"):
            runtime.load(nan)
        short = write(tmp_path / "short", {"a": 1.0, "b": 1.0}, example=[[1.0]])
        with pytest.raises(RefusedError, match="example"):
            runtime.load(short)

    def test_contributions_are_told_or_declined(self, runtime: Runtime, folder: Path) -> None:
        model, rows = runtime.load(folder), [(1.0, 2.0, "UA"), (None, 4.0, None)]
        if not self.explains:
            with pytest.raises(InvalidError, match="contribute"):
                model.explain(rows)
            return
        found, p = model.explain(rows), model.predict(rows)
        assert found.shape == (2, 4)
        np.testing.assert_allclose(found.sum(axis=1), np.log(p / (1 - p)), atol=1e-4)

    def test_a_text_where_a_number_belongs_names_the_column(self, runtime: Runtime, folder: Path) -> None:
        with pytest.raises(InvalidError, match="'b'"):
            runtime.load(folder).predict([(1.0, "two", "UA")])


def deployment(version: int, role: Part = "live", weight: float = 1.0, *, service: str = "svc", name: str = "") -> Deployment:
    """A deployment for tests; its digest follows from the version."""
    return Deployment(name or f"{service}-{version}-{role}", service, service, version, f"sha256:{version:064x}", role, weight, version)


class RouterContract(Contract):
    """Supply `router` and `deploy`: a function that replaces a service's deployments in one step."""

    Deploy = Callable[[Sequence[Deployment]], None]

    def test_lists_what_takes_part(self, router: Router, deploy: Deploy) -> None:
        assert router.deployments("svc") == []
        wanted = [deployment(1), deployment(2, "canary", 0.1), deployment(3, "shadow", 0.0), deployment(4, "warm", 0.0)]
        deploy([*wanted, deployment(1, service="other")])
        assert sorted(router.deployments("svc"), key=lambda d: d.version) == wanted
        assert [d.service for d in router.deployments("other")] == ["other"]

    def test_sticky(self, router: Router, deploy: Deploy) -> None:
        found = [deployment(1), deployment(2, "canary", 0.5)]
        first = [router.choose(found, f"id-{i}") for i in range(200)]
        assert [router.choose(list(reversed(found)), f"id-{i}") for i in range(200)] == first

    def test_monotone(self, router: Router) -> None:
        small, large = ([deployment(1), deployment(2, "canary", w)] for w in (0.1, 0.5))
        for i in range(500):
            if router.choose(small, f"id-{i}").role == "canary":
                assert router.choose(large, f"id-{i}").role == "canary"

    @pytest.mark.parametrize("weights", [(0.01,), (0.1,), (0.5,), (0.2, 0.3), (1.0,), (0.0,)])
    def test_proportional(self, router: Router, weights: tuple[float, ...]) -> None:
        found = [deployment(1), *(deployment(2 + i, "canary", w) for i, w in enumerate(weights))]
        n = 20_000
        counts = dict.fromkeys((d.version for d in found), 0)
        for i in range(n):
            counts[router.choose(found, f"2013-01-{i}-UA").version] += 1
        for i, weight in enumerate(weights):
            assert abs(counts[2 + i] / n - weight) <= 3 * math.sqrt(weight * (1 - weight) / n)

    def test_shadows_are_never_chosen(self, router: Router) -> None:
        found = [deployment(3, "shadow", 1.0), deployment(4, "warm", 1.0), deployment(1)]
        assert {router.choose(found, str(i)).version for i in range(300)} == {1}

    def test_nothing_live_is_unavailable(self, router: Router) -> None:
        for found in ([], [deployment(1, "shadow", 0.0)]):
            with pytest.raises(UnavailableError, match="live"):
                router.choose(found, "id")

    def test_atomic(self, router: Router, deploy: Deploy) -> None:
        lineups = [[deployment(1), deployment(2, "canary", 0.1)], [deployment(2), deployment(3, "shadow", 0.0)]]
        whole = {frozenset((d.version, d.role) for d in lineup) for lineup in lineups}
        deploy(lineups[0])
        stop = threading.Event()

        def flip() -> None:
            for i in range(40):
                deploy(lineups[i % 2])
            stop.set()

        flipping = threading.Thread(target=flip)
        flipping.start()
        seen = set()
        while not stop.is_set():
            seen.add(frozenset((d.version, d.role) for d in router.deployments("svc")))
        flipping.join()
        assert seen <= whole


COLUMNS = ("a", "b", "carrier")
_VALUES = st.none() | st.floats(allow_nan=False) | st.text(max_size=20)
_VISITS = st.builds(
    Visit, st.sampled_from(["", "old", 'ü"']), st.sampled_from(["1", "0f3a"]), st.sampled_from(["", "svc"]), st.sampled_from(["", "failed"])
)
_PREDICTIONS = st.builds(
    Prediction,
    id=st.sampled_from(["1", "2", "x/0", "ü\x00", "日"]),
    service=st.sampled_from(["svc", "other"]),
    model=st.just("svc"),
    version=st.integers(1, 3),
    role=st.sampled_from(["live", "canary", "shadow"]),
    at_us=st.integers(0, 2**52),
    score=st.floats(allow_nan=False),
    columns=st.just(COLUMNS),
    values=st.tuples(_VALUES, _VALUES, _VALUES),
    request=st.dictionaries(st.text(max_size=5), _VALUES | st.integers(-(2**63), 2**63 - 1) | st.booleans(), max_size=3),
    latency_us=st.integers(0, 10**9),
    route=st.just(()) | st.lists(_VISITS, min_size=1, max_size=3).map(tuple),
)


def prediction(i: int, **changes: Any) -> Prediction:
    """The i-th of a row of predictions a second apart."""
    made = Prediction(f"id-{i:06d}", "svc", "svc", 1, "live", i * 1_000_000, i / 7, COLUMNS, (i / 3, None, "UA"), {"origin": "JFK"})
    return msgspec.structs.replace(made, **changes)


class PredictionLogContract(Contract):
    """Supply `log` and `reopen`: a function that opens the same log once more, as another process would (it can be pickled)."""

    @keeps("exact", "once", "ordered")
    def test_exact_and_once_and_ordered_like_a_dict(self, log: PredictionLog) -> None:
        kept: dict[tuple[str, str, int, str], Prediction] = {}

        @settings(deadline=None, max_examples=40)
        @given(st.lists(_PREDICTIONS, max_size=8))
        def check(batch: list[Prediction]) -> None:
            log.append(batch)
            for p in batch:
                kept.setdefault((p.service, p.id, p.version, p.role), p)
            for service in ("svc", "other"):
                want = [p for p in kept.values() if p.service == service]
                got = list(log.read(service))
                assert {(p.id, p.version, p.role): p for p in got} == {(p.id, p.version, p.role): p for p in want}
                assert len(got) == len(want)
                assert [(p.at_us, p.id) for p in got] == sorted((p.at_us, p.id) for p in want)

        check()

    def test_exact_floats_bit_by_bit(self, log: PredictionLog) -> None:
        hard = (0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf)
        log.append([prediction(i, values=(value, None, ""), score=value) for i, value in enumerate(hard)])
        got = list(log.read("svc"))
        assert [p.values[0].hex() for p in got] == [v.hex() for v in hard]
        assert [p.score.hex() for p in got] == [v.hex() for v in hard]
        assert all(p.values[1] is None and p.values[2] == "" for p in got)

    def test_durable_for_another_process(self, log: PredictionLog, reopen: Callable[[], PredictionLog]) -> None:
        log.append([prediction(i) for i in range(300)])
        assert list(reopen().read("svc")) == [prediction(i) for i in range(300)]

    def test_durable_after_kill_9(self, reopen: Callable[[], PredictionLog]) -> None:
        last = until_killed(_append_for_ever, reopen)[-1]
        found = list(reopen().read("svc"))
        assert found == [prediction(i) for i in range(len(found))]
        assert len(found) in (_MANY * (last + 1), _MANY * (last + 2))

    def test_what_nobody_waits_for_survives_kill_9_as_well(self, reopen: Callable[[], PredictionLog]) -> None:
        last = until_killed(partial(_append_for_ever, durable=False), reopen)[-1]
        assert len(list(reopen().read("svc"))) in (_MANY * (last + 1), _MANY * (last + 2))

    def test_once_the_first_record_stands(self, log: PredictionLog, reopen: Callable[[], PredictionLog]) -> None:
        log.append([prediction(1), prediction(1, score=9.0), prediction(1, role="shadow", version=2)])
        reopen().append([prediction(1, score=8.0)])
        assert [(p.score, p.role, p.version) for p in log.find("id-000001")] == [(1 / 7, "live", 1), (1 / 7, "shadow", 2)]

    def test_once_services_do_not_share_ids(self, log: PredictionLog) -> None:
        log.append([prediction(1), prediction(1, service="other", score=3.0)])
        assert [p.score for p in log.read("other")] == [3.0]
        assert len(log.find("id-000001")) == 2

    def test_reads_windows_and_roles(self, log: PredictionLog) -> None:
        log.append([prediction(i) for i in range(10)] + [prediction(i, role="shadow", version=2) for i in range(10)])
        got = list(log.read("svc", from_us=2_000_000, until_us=5_000_000, roles=["live"]))
        assert [p.at_us for p in got] == [2_000_000, 3_000_000, 4_000_000]
        assert len(list(log.read("svc", from_us=8_000_000))) == 4
        assert list(log.read("svc", roles=[])) == []
        assert log.find("none") == []

    def test_scores_are_the_columns_of_read(self, log: PredictionLog) -> None:
        log.append(
            [prediction(i, role=("live", "canary")[i % 2]) for i in range(50)]
            + [prediction(i, role="shadow", version=2) for i in range(50)]
        )
        got, rows = log.scores("svc", from_us=5_000_000, until_us=40_000_000), list(log.read("svc", from_us=5_000_000, until_us=40_000_000))
        assert set(got) == {"id", "version", "role", "at_us", "score"}
        for name, column in got.items():
            assert column.tolist() == [getattr(p, name) for p in rows]
        assert {len(column) for column in log.scores("none").values()} == {0}

    @keeps("durable")
    def test_many_threads_lose_nothing(self, log: PredictionLog) -> None:
        def write(thread: int) -> None:
            for i in range(25):
                log.append([prediction(thread * 1000 + i), prediction(thread * 1000 + i, role="shadow", version=2)])

        threads = [threading.Thread(target=write, args=(t,)) for t in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(log.read("svc"))) == 400

    def test_an_append_is_kept_whole_or_not_at_all(self, log: PredictionLog) -> None:
        with pytest.raises(InvalidError, match="id-000002"):
            log.append([prediction(1), prediction(2, values=(object(), None, None))])
        assert list(log.read("svc")) == []

    def test_claimed_until_it_is_thin(self, log: PredictionLog, reopen: Callable[[], PredictionLog]) -> None:
        log.append([prediction(i) for i in range(9)] + [prediction(0, service="other")])
        name, rows = log.claim("svc", until_us=6_000_000, limit=4)
        assert rows == [prediction(i) for i in range(4)]
        log.append([prediction(100, at_us=1)])  # late: it was not there when the batch was claimed
        assert reopen().claim("svc", until_us=9_000_000, limit=100) == (name, rows)
        log.thin(name)
        log.thin(name)
        log.thin("never claimed")
        second, rest = reopen().claim("svc", until_us=6_000_000, limit=100)
        assert second != name
        assert rest == [prediction(100, at_us=1), prediction(4), prediction(5)]
        log.thin(second)
        assert log.claim("svc", until_us=6_000_000, limit=100)[1] == []
        assert log.claim("other", until_us=6_000_000, limit=100)[1] == [prediction(0, service="other")]

    def test_thin_rows_keep_their_place(self, log: PredictionLog) -> None:
        log.append([prediction(i) for i in range(5)])
        before = log.scores("svc")
        name, rows = log.claim("svc", until_us=3_000_000, limit=100)
        log.thin(name)
        log.append([prediction(1, score=9.0)])
        after = log.scores("svc")
        assert {k: v.tolist() for k, v in before.items()} == {k: v.tolist() for k, v in after.items()}
        self.check_thin(log, rows)

    def check_thin(self, log: PredictionLog, rows: Sequence[Prediction]) -> None:
        """What is left of thin rows; a log that finds them elsewhere says so by overriding this."""
        found = [p for p in log.read("svc") if p.columns == THIN]
        assert [(p.id, p.version, p.role, p.at_us, p.score, p.latency_us) for p in found] == [
            (p.id, p.version, p.role, p.at_us, p.score, p.latency_us) for p in rows
        ]
        assert all(p.values == (None,) and not p.request for p in found)

    @keeps("once")
    def test_dropped_is_forgotten(self, log: PredictionLog) -> None:
        log.append([prediction(i) for i in range(5)] + [prediction(0, service="other")])
        assert log.drop("svc", before_us=3_000_000) == 3
        assert [p.id for p in log.read("svc")] == ["id-000003", "id-000004"]
        assert len(list(log.read("other"))) == 1


_MANY = 500


def _append_for_ever(log: PredictionLog, report: Report, *, durable: bool = True) -> None:
    for turn in count():
        log.append([prediction(_MANY * turn + part) for part in range(_MANY)], durable=durable)
        report(turn)
