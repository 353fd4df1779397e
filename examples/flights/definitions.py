"""What Tidemill needs to know about late flights."""

import lightgbm as lgb
import numpy as np

import tidemill as tm

origin, dest, carrier, plane = tm.Entity("origin"), tm.Entity("dest"), tm.Entity("carrier"), tm.Entity("plane", key="tailnum")

schedule = tm.Table("schedule", "files:data/schedule", event_time="scheduled_at", known_time="filed_at", key="flight")
departures = tm.Table("departures", "files:data/departures", event_time="left_at", known_time="recorded_at", key="flight")
landings = tm.Table("landings", "files:data/landings", event_time="landed_at", known_time="recorded_at", key="flight")
weather = tm.Table("weather", "files:data/weather", event_time="observed_at", known_time="published_at", key=("origin", "observed_at"))
planes = tm.Table("planes", "files:data/planes", event_time="registered_at", known_time="registered_at", key="tailnum")

traffic = tm.FeatureView("traffic", origin, departures, [tm.mean("dep_delay", over="3h", hop="5m"), tm.count(over="3h", hop="5m")])
arrivals = tm.FeatureView("arrivals", dest, landings, [tm.mean("arr_delay", over="6h", hop="5m")])
form = tm.FeatureView("form", carrier, landings, [tm.mean("arr_delay", over="24h", hop="1h")])
legs = tm.FeatureView("legs", plane, landings, [tm.latest("arr_delay", ttl="2d")])
sky = tm.FeatureView("sky", origin, weather, [tm.latest("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib", ttl="6h")])
aircraft = tm.FeatureView("aircraft", plane, planes, [tm.latest("year", "seats", ttl="3650d")])


@tm.on_demand
def hour(scheduled_at):
    """The hour of the scheduled departure, UTC."""
    return scheduled_at.astype("M8[h]").astype(np.int64) % 24


@tm.on_demand
def weekday(scheduled_at):
    """The day of the week of the scheduled departure, Monday is 0."""
    return (scheduled_at.astype("M8[D]").astype(np.int64) + 3) % 7


late = tm.Label("late", landings, "arr_delay > 15", key="flight", matures="12h")


@tm.step
def fit(rows: tm.TrainingSet, leaves: int = 31, rate: float = 0.1, trees: int = 120) -> tm.Model:
    """Gradient-boosted trees on the rows given."""
    x, y = tm.encode(rows)
    shape = {"num_leaves": leaves, "min_child_samples": 60, "max_bin": 63, "feature_fraction": 0.5}
    params = {"objective": "binary", "learning_rate": rate, **shape}
    booster = lgb.train({**params, **tm.deterministic()}, lgb.Dataset(x, y), num_boost_round=trees)
    return tm.lightgbm_model(booster, rows, params)


@tm.pipeline
def train(until: tm.Instant) -> tm.ModelVersion:
    """From published tables to a registered model version."""
    parts = tm.holdout(tm.training_set("flight-delay", until=until), last="5d")
    best = tm.tune(fit, parts["train"], leaves=tm.integer(15, 63), rate=tm.log(0.05, 0.15), trials=4, rows_limit=30_000)
    model = fit(parts["train"], **best)
    return tm.register(model, tm.evaluate(model, parts["test"]))


delay = tm.Service(
    "flight-delay",
    features=["carrier", "origin", "dest", "distance", traffic, arrivals, form, legs, sky, aircraft, hour, weekday],
    label=late,
    spine=schedule,
    key="flight",
    lead="1h",
    pipeline=train,
    gate=tm.Gate("log_loss", block="1d", alpha=0.2),
    rollout=tm.Rollout(shadow="1d", canary=(0.25,), bake="1d"),
    retrain=[tm.on_drift(), tm.on_quality(), tm.on_new_data("30d"), tm.every("90d")],
)
