"""A project's definitions are collected by name, once, and errors say where they are."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.core.errors import InvalidError, NotFoundError
from tidemill.platform import project as projects
from tidemill.platform.project import find_project, load_definitions, missing_columns

GOOD = """
import tidemill as tm
{extra}
origin = tm.Entity("origin")
trips = tm.Table("trips", "files:data/trips", event_time="left", known_time="seen", key="trip")
view = tm.FeatureView("traffic", origin, trips, [tm.mean("delay", over="3h", hop="5m")])
late = tm.Label("late", trips, "delay > 15", key="trip")
service = tm.Service("delays", features=["origin", view], label=late, spine=trips, key="trip")
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    projects._forget()


def write(folder: Path, text: str = GOOD, extra: str = "", **modules: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "definitions.py").write_text(text.replace("{extra}", extra))
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def test_everything_is_found_by_its_own_name(tmp_path: Path) -> None:
    found = load_definitions(write(tmp_path / "a"))
    assert (list(found.tables), list(found.views), list(found.labels), list(found.services)) == (
        ["trips"],
        ["traffic"],
        ["late"],
        ["delays"],
    )
    assert found.service().request_columns == ("origin",)


def test_what_only_a_service_names_is_found_too(tmp_path: Path) -> None:
    text = GOOD.replace('late = tm.Label("late", trips, "delay > 15", key="trip")', "").replace(
        "label=late", 'label=tm.Label("late", trips, "delay > 15", key="trip")'
    )
    assert list(load_definitions(write(tmp_path / "a", text)).labels) == ["late"]


def test_an_unchanged_project_is_imported_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    assert load_definitions(folder) is load_definitions(folder)


def test_a_changed_helper_module_is_seen(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", extra="from helper import SIZE", helper="SIZE = 1\n")
    load_definitions(folder)
    assert sys.modules["helper"].SIZE == 1
    (folder / "helper.py").write_text("SIZE = 22\n")
    load_definitions(folder)
    assert sys.modules["helper"].SIZE == 22


def test_projects_with_modules_of_one_name_do_not_mix(tmp_path: Path) -> None:
    one = write(tmp_path / "one", extra="import helper", helper="NAME = 'one'\n")
    two = write(tmp_path / "two", extra="import helper", helper="NAME = 'two'\n")
    for folder in (one, two, one):
        load_definitions(folder)
        assert folder.name == sys.modules["helper"].NAME
        assert sys.modules["definitions"].__file__ == str(folder.resolve() / "definitions.py")
        assert sys.path.count(str(one.resolve())) + sys.path.count(str(two.resolve())) == 1


def test_without_definitions_the_way_to_them_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="tidemill init"):
        load_definitions(tmp_path)
    with pytest.raises(NotFoundError, match="tidemill init"):
        find_project(tmp_path)


def test_a_project_is_found_from_below(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    below = folder / "data" / "trips"
    below.mkdir(parents=True)
    assert find_project(below) == folder.resolve()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("x = 1 / 0", r"definitions\.py:3: ZeroDivisionError"),
        ("def f(:", r"definitions\.py:3: SyntaxError"),
        ("import helper", r"helper\.py:2: NameError"),
        ('other = tm.Table("trips", "files:b", event_time="t", known_time="t")', "two different values define the table 'trips'"),
        ('other = tm.Entity("origin", key="x")', "two different values define the entity 'origin'"),
        ("import tidemil", r"definitions\.py:3: ModuleNotFoundError"),
    ],
)
def test_errors_say_where(tmp_path: Path, extra: str, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        load_definitions(write(tmp_path / "a", extra=extra, helper="\nundefined\n"))


def test_a_broken_project_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", extra="x = 1 / 0")
    with pytest.raises(InvalidError):
        load_definitions(folder)
    write(tmp_path / "a")
    assert list(load_definitions(folder).services) == ["delays"]


def test_a_feature_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="the feature origin twice"):
        load_definitions(write(tmp_path / "a", GOOD.replace('["origin", view]', '["origin", "origin", view]')))


def test_an_on_demand_feature_cannot_read_what_comes_after_it(tmp_path: Path) -> None:
    extra = "@tm.on_demand\ndef first(second): return second\n@tm.on_demand\ndef second(left): return left\n"
    text = GOOD.replace('["origin", view]', "[first, second, view]")
    with pytest.raises(InvalidError, match="first reads second"):
        load_definitions(write(tmp_path / "a", text, extra=extra))


def test_columns_that_tables_lack_are_named_with_who_needs_them(tmp_path: Path) -> None:
    found = load_definitions(write(tmp_path / "a"))
    lacking = missing_columns(found, {"trips": ["trip", "origin", "left", "seen"]})
    assert lacking == [
        "feature view 'traffic' needs the column 'delay', which table 'trips' does not have; it has trip, origin, left, seen"
    ]
    assert missing_columns(found, {"trips": ["trip", "origin", "left", "seen", "delay"]}) == []
    assert missing_columns(found, {}) == []
