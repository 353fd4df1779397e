"""The flights project's definitions without its pipeline: what the sample ledger speaks of."""

import numpy as np

from tidemill.core import aggregates
from tidemill.core import definitions as tm

origin, dest, carrier, plane = tm.Entity("origin"), tm.Entity("dest"), tm.Entity("carrier"), tm.Entity("plane", key="tailnum")
schedule = tm.Table(
    "schedule",
    "files:data/schedule",
    event_time="scheduled_at",
    known_time="filed_at",
    key="flight",
    description="what is planned, weeks ahead",
)
departures = tm.Table(
    "departures",
    "files:data/departures",
    event_time="left_at",
    known_time="recorded_at",
    key="flight",
    description="known when a plane leaves",
)
landings = tm.Table(
    "landings",
    "files:data/landings",
    event_time="landed_at",
    known_time="recorded_at",
    key="flight",
    description="known when it lands: the label",
)
weather = tm.Table(
    "weather",
    "files:data/weather",
    event_time="observed_at",
    known_time="published_at",
    key=("origin", "observed_at"),
    description="hourly, 15 minutes late",
)

traffic = tm.FeatureView(
    "traffic", origin, departures, [aggregates.mean("dep_delay", over="3h", hop="5m"), aggregates.count(over="3h", hop="5m")]
)
arrivals = tm.FeatureView("arrivals", dest, landings, [aggregates.mean("arr_delay", over="6h", hop="5m")])
form = tm.FeatureView("form", carrier, landings, [aggregates.mean("arr_delay", over="24h", hop="1h")])
legs = tm.FeatureView("legs", plane, landings, [aggregates.latest("arr_delay", ttl="2d")])
sky = tm.FeatureView("sky", origin, weather, [aggregates.latest("wind_speed", "visib", "precip", "temp", ttl="6h")])


@tm.on_demand
def hour(scheduled_at):  # type: ignore[no-untyped-def]
    """The hour of the scheduled departure, UTC."""
    return scheduled_at.astype("M8[h]").astype(np.int64) % 24


late = tm.Label("late", landings, "arr_delay > 15", key="flight", matures="1d")
delay = tm.Service(
    "flight-delay", features=["carrier", "origin", "dest", "distance", traffic, arrivals, form, legs, sky, hour], label=late, spine=schedule, key="flight",
    lead="1h", retrain=[tm.on_drift(), tm.on_quality(), tm.on_new_data("30d"), tm.every("90d")], description="Will this flight land more than 15 minutes late?",
)  # fmt: skip

VIEWS = (traffic, arrivals, form, legs, sky)
DEFINITIONS = tm.Definitions(
    tables={t.name: t for t in (schedule, departures, landings, weather)},
    views={v.name: v for v in VIEWS},
    labels={"late": late},
    services={"flight-delay": delay},
)
