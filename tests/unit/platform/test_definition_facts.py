"""What a definition says beside how it is computed, and what a view means."""

import pytest

import tidemill as tm
from tidemill.core.definitions import FeatureView, Label, Table
from tidemill.core.errors import InvalidError
from tidemill.core.meaning import view_body, view_digest, view_from

PLACE = tm.Entity("place", key="code")
TRIPS = Table("trips", "files:trips", "happened", "known", key="id")
BUSY = FeatureView("busy", (PLACE, tm.Entity("lane")), TRIPS, [tm.mean("delay", over="1h", hop="5m"), tm.latest("delay", ttl="1h")])


def test_words_about_a_view_do_not_change_what_it_means() -> None:
    told = FeatureView("busy", BUSY.entity, TRIPS, BUSY.features, description="how busy", owner="ann", tags=("traffic",), freshness="15m")
    assert view_digest(told) == view_digest(BUSY)
    assert view_digest(FeatureView("busy", PLACE, TRIPS, BUSY.features)) != view_digest(BUSY)
    assert view_digest(FeatureView("busy", BUSY.entity, TRIPS, BUSY.features[:1])) != view_digest(BUSY)


def test_a_view_comes_back_from_its_body() -> None:
    again = view_from(view_body(BUSY))
    assert view_digest(again) == view_digest(BUSY)
    assert (again.keys, again.aggregates, again.table.keys) == (BUSY.keys, BUSY.aggregates, TRIPS.keys)


def test_one_text_stands_for_a_tuple_of_one() -> None:
    table = Table("people", "files:people", "at", "known", pii="email", tags=("crm",))
    assert (set(table.personal), table.tags, table.keys) == ({"email"}, ("crm",), ())


def test_a_promise_is_a_duration() -> None:
    assert FeatureView("busy", PLACE, TRIPS, BUSY.features, freshness="15m").freshness_us == 15 * 60 * 10**6
    assert BUSY.freshness_us is None
    with pytest.raises(InvalidError, match="soon"):
        FeatureView("busy", PLACE, TRIPS, BUSY.features, freshness="soon")


def test_a_writer_has_one_place_in_the_order() -> None:
    with pytest.raises(InvalidError, match="desk"):
        Label("late", TRIPS, "delay > 15", key="id", writers=("desk", "table:trips", "desk"))
