"""Personal columns: which they are, how they are logged, and that parity still holds behind the hash."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.support.feature_rows import MINUTE

from tidemill.core.aggregates import count, latest, mean
from tidemill.core.definitions import Definitions, Entity, FeatureView, Label, Service, Table, on_demand
from tidemill.core.errors import InvalidError
from tidemill.core.privacy import HIDDEN, Masker, hide, is_masked, private_columns
from tidemill.features import verify
from tidemill.features.embedded import DuckOfflineStore
from tidemill.platform.lock import secret_key
from tidemill.serving import PrivateLog
from tidemill.serving.embedded import SqlitePredictionLog
from tidemill.serving.ports import Prediction
from tidemill.testing.reference import UTC_US
from tidemill.versioning.ports import Scan

CALLS = Table("calls", "files:calls", "at", "known", pii=("email", "spent"))
VISITS = Table("visits", "files:visits", "at", "known", pii="email")
SHOP, PERSON = Entity("shop"), Entity("email")
BUSY = FeatureView(
    "busy",
    SHOP,
    CALLS,
    [count(over="1h", hop="5m"), mean("spent", over="1h", hop="5m"), latest("email", ttl="1h"), latest("kind", ttl="1h")],
)
HABITS = FeatureView("habits", PERSON, VISITS, [count(over="1h", hop="5m")])


@on_demand
def domain(email: Any) -> Any:
    return email


@on_demand
def twice(busy__count_1h: Any) -> Any:
    return busy__count_1h * 2


SERVICE = Service("buys", [BUSY, HABITS, "email", domain, twice], Label("bought", CALLS, "spent > 1", key="call"), CALLS, "call")


def test_what_is_personal() -> None:
    assert private_columns(SERVICE) == {"email", "busy__spent_mean_1h", "busy__email", "domain"}
    assert hide({"email": "ann@x", "kind": "web", "spent": None}, [CALLS]) == {"email": HIDDEN, "kind": "web", "spent": None}
    with pytest.raises(InvalidError, match="cannot be personal"):
        Service("buys", [BUSY], SERVICE.label, CALLS, "email")


def test_a_mask_tells_equal_from_different_and_nothing_else() -> None:
    mask = Masker(b"k" * 32)
    assert mask(3) == mask(3.0) != mask("3")
    assert mask("ann@x") != Masker(b"l" * 32)("ann@x")
    assert (mask(None), mask(float("nan"))) == (None, None)
    assert is_masked(mask("ann@x"))
    assert mask(mask("ann@x")) == mask("ann@x")
    assert "ann" not in str(mask("ann@x"))


def test_the_key_is_made_once_and_its_owner_alone_reads_it(tmp_path: Path) -> None:
    key = secret_key(tmp_path / "pii.key")
    assert (len(key), secret_key(tmp_path / "pii.key")) == (32, key)
    assert (tmp_path / "pii.key").stat().st_mode & 0o077 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["pii.key"]


def prediction(**values: Any) -> Prediction:
    request = {"shop": "a", "email": "ann@example.org"}
    columns = (*BUSY.columns, *HABITS.columns, "email", "domain", "twice")
    given = dict(zip(columns, (1.0, 7.0, "bob@example.org", "web", 1.0, "ann@example.org", "ann@example.org", 2.0), strict=True)) | values
    return Prediction("p1", "buys", "buys", 1, "live", 60 * MINUTE, 0.5, columns, tuple(given[c] for c in columns), request)


def test_nothing_personal_reaches_the_file(tmp_path: Path) -> None:
    mask = Masker(b"k" * 32)
    log = PrivateLog(SqlitePredictionLog(tmp_path / "p.db"), {"buys": private_columns(SERVICE)}, mask)
    log.append([prediction()])
    [kept] = log.find("p1")
    values = dict(zip(kept.columns, kept.values, strict=True))
    assert values["busy__email"] == mask("bob@example.org")
    assert values["busy__spent_mean_1h"] == mask(7.0)
    assert (values["busy__kind"], values["busy__count_1h"]) == ("web", 1.0)
    assert kept.request == {"shop": "a", "email": mask("ann@example.org")}
    log.close()
    for file in tmp_path.iterdir():
        assert b"example.org" not in file.read_bytes(), file


@dataclass
class World:
    scans: Mapping[str, Scan]
    mask: Masker = field(default_factory=lambda: Masker(b"k" * 32))


@pytest.fixture
def world(tmp_path: Path) -> World:
    import pyarrow.parquet as pq

    clock = pa.array([50 * MINUTE], pa.int64()).cast(UTC_US)
    calls = pa.table(
        {"call": ["c"], "shop": ["a"], "email": ["bob@example.org"], "spent": [7.0], "kind": ["web"], "at": clock, "known": clock}
    )
    visits = pa.table({"email": ["ann@example.org"], "at": clock, "known": clock})
    for name, rows in (("calls", calls), ("visits", visits)):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    return World({n: Scan(n, 1, t.schema, (str(tmp_path / f"{n}.parquet"),)) for n, t in (("calls", calls), ("visits", visits))})


def logged(world: World, **values: Any) -> Prediction:
    log = PrivateLog(_Kept(), {"buys": private_columns(SERVICE)}, world.mask)  # type: ignore[arg-type]
    log.append([prediction(**values)])
    kept: Prediction = log._log.rows[0]  # type: ignore[attr-defined]
    return kept


class _Kept:
    def __init__(self) -> None:
        self.rows: list[Prediction] = []

    def append(self, predictions: Any, *, durable: bool = True) -> None:
        self.rows += predictions


def test_parity_holds_behind_the_hash_and_says_what_it_cannot_compare(world: World) -> None:
    report = verify(SERVICE, [logged(world)], DuckOfflineStore(), world.scans, mask=world.mask)
    assert (report.rows, report.differences) == (1, 0)
    assert set(report.excluded) == {"habits__count_1h", "email", "domain"}
    assert "kept as a hash only" in report.excluded["habits__count_1h"]
    assert report.values == len(prediction().columns) - 3


def test_a_wrong_personal_value_is_found_and_not_shown(world: World) -> None:
    report = verify(SERVICE, [logged(world, busy__email="eve@example.org")], DuckOfflineStore(), world.scans, mask=world.mask)
    [example] = report.examples
    assert (example.column, report.by_column["busy__email"]) == ("busy__email", 1)
    assert is_masked(example.served)
    assert is_masked(example.expected)


def test_without_the_key_personal_columns_are_left_out(world: World) -> None:
    report = verify(SERVICE, [logged(world)], DuckOfflineStore(), world.scans)
    assert report.differences == 0
    assert {"busy__email", "busy__spent_mean_1h", "email", "domain", "habits__count_1h"} == set(report.excluded)


def test_search_entries_say_owner_tags_columns_and_what_is_personal() -> None:
    from tidemill.catalog import entries

    told = FeatureView("busy", SHOP, CALLS, BUSY.features, description="How busy a shop is", owner="ann", tags=("traffic", "live"))
    definitions = Definitions(tables={"calls": CALLS}, views={"busy": told}, labels={"bought": SERVICE.label}, services={"buys": SERVICE})
    found = {(e.kind, e.name): e for e in entries(definitions)}
    assert found["feature view", "busy"].facts == {
        "owner": "ann",
        "tags": "traffic live",
        "table": "calls",
        "keys": "shop",
        "columns": "spent email kind",
    }
    assert found["feature", "busy__email"].facts["pii"] == "yes"
    assert "pii" not in found["feature", "busy__kind"].facts
    assert found["table", "calls"].facts["pii"] == "email spent"
    assert {kind for kind, _ in found} == {"table", "feature view", "feature", "label", "service"}
