"""tidemill features training-set: rows from an event table, from a label's table and from a file, each with what was known at its own time."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from tidemill.cli.app import cli
from tidemill.core.errors import TidemillError
from tidemill.core.instants import HOUR_US, SECOND_US, parse_instant
from tidemill.platform.root import Platform

UNTIL = "2024-01-05"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p") / "orders"
    assert CliRunner().invoke(cli, ["init", str(folder)]).exit_code == 0
    for path in (folder / "data").rglob("*"):
        if path.is_file() and path.stem[-10:] > "2024-01-05":
            path.unlink()
    platform = Platform.open(folder)
    from tidemill.retraining import loop

    loop.learn_labels(platform.loop, loop.ingest(platform.loop))
    platform.close()
    return folder


def ask(project: Path, out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["features", "--project", str(project), "training-set", str(out), *arguments])


def refused(project: Path, out: Path, *arguments: str) -> str:
    result = ask(project, out, *arguments)
    assert isinstance(result.exception, TidemillError), result.output
    assert not out.exists()
    return str(result.exception)


def made(project: Path, out: Path, *arguments: str) -> list[dict[str, object]]:
    result = ask(project, out, *arguments)
    assert result.exit_code == 0, result.output
    assert f"{pq.read_metadata(out).num_rows:,} rows" in result.output
    rows: list[dict[str, object]] = pq.read_table(out).to_pylist()
    return rows


def table(project: Path, name: str) -> list[dict[str, object]]:
    platform = Platform.open(project)
    scan = platform.tables.scan(name)
    rows = ds.dataset(list(scan.paths), schema=scan.schema, format="parquet").to_table()
    platform.close()
    for i, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            rows = rows.set_column(i, field.name, pc.cast(rows.column(i), pa.int64()))
    found: list[dict[str, object]] = rows.to_pylist()
    return found


def count_at(deliveries: list[dict[str, object]], kitchen: object, at: int) -> int:
    """`count(over="3h", hop="5m")`, said plainly."""
    since = (at - 3 * HOUR_US) // (300 * SECOND_US) * (300 * SECOND_US)
    return sum(d["kitchen"] == kitchen and since < d["delivered_at"] <= at and d["recorded_at"] <= at for d in deliveries)  # type: ignore[operator]


def us(value: object) -> int:
    assert isinstance(value, datetime)
    return round(value.timestamp() * 1e6)


def test_an_event_table_is_the_spine(project: Path, tmp_path: Path) -> None:
    rows = made(
        project, tmp_path / "a.parquet", "--features", "recent,distance_km,hour", "--spine", "orders", "--label", "late", "--until", UNTIL
    )
    deliveries, orders = table(project, "deliveries"), {o["order"]: o for o in table(project, "orders")}
    told = {d["order"]: float(d["minutes"] > 40) for d in deliveries if d["recorded_at"] <= parse_instant(UNTIL)}  # type: ignore[operator]
    assert {r["id"]: r["label"] for r in rows} == {o: v for o, v in told.items() if orders[o]["placed_at"] <= parse_instant(UNTIL)}  # type: ignore[operator]
    assert list(rows[0]) == ["id", "at", "kitchen", "recent__minutes_mean_3h", "recent__count_3h", "distance_km", "hour", "label"]
    for row in rows:
        order = orders[row["id"]]
        assert (us(row["at"]), row["kitchen"], row["distance_km"]) == (order["placed_at"], order["kitchen"], order["distance_km"])
        assert row["recent__count_3h"] == count_at(deliveries, row["kitchen"], us(row["at"]))
    assert len({row["recent__count_3h"] for row in rows}) > 4


def test_without_options_it_is_what_the_service_trains_on(project: Path, tmp_path: Path) -> None:
    service = made(project, tmp_path / "a.parquet", "--until", UNTIL)
    named = made(project, tmp_path / "b.parquet", "--features", "orders", "--spine", "orders", "--label", "late", "--until", UNTIL)
    assert service == named
    unlabelled = made(project, tmp_path / "c.parquet", "--label", "", "--until", UNTIL)
    assert len(unlabelled) > len(service)
    assert "label" not in unlabelled[0]


def test_a_labels_table_is_the_spine_and_tells_nothing_but_keys_and_times(project: Path, tmp_path: Path) -> None:
    rows = made(project, tmp_path / "a.parquet", "--features", "recent__count_3h", "--label", "late", "--lead", "1h", "--until", UNTIL)
    deliveries = {d["order"]: d for d in table(project, "deliveries")}
    assert list(rows[0]) == ["id", "at", "kitchen", "recent__count_3h", "label"], "of the view only what was asked for"
    for row in rows:
        mine = deliveries[row["id"]]
        assert us(row["at"]) == mine["delivered_at"] - HOUR_US  # type: ignore[operator]
        assert row["label"] == float(mine["minutes"] > 40)  # type: ignore[operator]
        assert row["recent__count_3h"] == count_at(list(deliveries.values()), mine["kitchen"], us(row["at"]))
    said = refused(project, tmp_path / "b.parquet", "--features", "recent,minutes", "--label", "late", "--lead", "1h")
    assert "is named minutes" in said, "what a label's table says of a row is known too late"


def test_a_label_that_was_known_when_the_row_is_asked_is_refused(project: Path, tmp_path: Path) -> None:
    said = refused(project, tmp_path / "a.parquet", "--features", "recent", "--label", "late", "--at", "recorded_at")
    assert "were known by the time they are asked about" in said
    assert "--lead" in said
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_file_all_stay(project: Path, tmp_path: Path) -> None:
    listed = tmp_path / "rows.csv"
    listed.write_text("kitchen,at,order,note\ntaco,2024-01-03T12:00:00Z,o00100,x\nnone,2024-01-03T12:00:00Z,o99999,y\n")
    rows = made(project, tmp_path / "a.parquet", "--features", "recent", "--spine", str(listed), "--label", "late")
    assert [(r["note"], r["order"], r["label"] is None) for r in rows] == [("x", "o00100", False), ("y", "o99999", True)]
    assert [r["recent__count_3h"] for r in rows] == [count_at(table(project, "deliveries"), "taco", us(rows[0]["at"])), 0]
    listed.write_text("kitchen,at\ntaco,2024-01-03T12:00:00\n")
    assert "with a time zone" in refused(project, tmp_path / "b.parquet", "--features", "recent", "--spine", str(listed))
    listed.write_text("kitchen,when\ntaco,2024-01-03T12:00:00Z\n")
    assert "lack 'at'" in refused(project, tmp_path / "b.parquet", "--features", "recent", "--spine", str(listed))


def test_a_listed_column_named_label_stays_unless_a_label_is_asked_for(project: Path, tmp_path: Path) -> None:
    listed = tmp_path / "rows.csv"
    listed.write_text("kitchen,at,order,label\ntaco,2024-01-03T12:00:00Z,o00100,7\n")
    assert made(project, tmp_path / "a.parquet", "--features", "recent", "--spine", str(listed))[0]["label"] == 7
    assert made(project, tmp_path / "b.parquet", "--features", "recent", "--spine", str(listed), "--label", "late")[0]["label"] in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--features", "recent__cont_3h", "--spine", "orders"], "recent__count_3h"),
        (["--features", "recent,nope", "--spine", "orders"], "is named nope"),
        (["--features", "recent", "--spine", "ordrs"], "neither a file nor a table"),
        (["--features", "recent", "--label", "lat"], "late"),
        (["--features", "recent", "--label", "late", "--at", "kitchen"], "does not say when"),
        (["--features", "recent", "--spine", "orders", "--at", "nope"], "no column 'nope'"),
        (["--until", "2023-01-01"], "has no row"),
    ],
)
def test_what_is_wrong_is_said(project: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    assert said in refused(project, tmp_path / "a.parquet", *arguments)


def test_from_python(project: Path) -> None:
    platform = Platform.open(project)
    rows = platform.training_set(
        ["recent"], spine="orders", label="late", from_us=parse_instant("2024-01-03"), until_us=parse_instant(UNTIL)
    )
    platform.close()
    times = rows.column("at").cast(pa.int64()).to_pylist()
    assert times == sorted(times)
    assert parse_instant("2024-01-03") <= times[0]
    assert times[-1] <= parse_instant(UNTIL)
