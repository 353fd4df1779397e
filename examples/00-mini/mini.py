"""Tidemill in miniature: the whole loop in one file, with NumPy and the standard library.

    python mini.py

Orders are placed, delivered, and some are late. For each order, when it is placed, a model says how probable that is. Half-way the world
changes. Read from top to bottom: every section is one idea of the real thing, and says where the real thing is.
"""

import hashlib
import inspect
import math
import random
import sqlite3
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

MINUTE, HOUR, DAY = 1, 60, 1440  # time is an integer and an argument; nothing here asks what time it is


# 1 -- Two clocks (tidemill/features) ---------------------------------------------------------------------------------------------
# Every row says when it happened and when it could be known. At time t it counts if both are over. That is all it takes to be
# free of leaks, and a training set that is built today for a day long gone equals the one that was built on that day.


@dataclass(frozen=True)
class Order:
    id: int
    kitchen: str
    km: float
    placed: int


@dataclass(frozen=True)
class Delivery:
    order: int
    kitchen: str
    minutes: float
    delivered: int  # event time
    recorded: int  # known time


class Deliveries:
    """All deliveries by kitchen, with the mean of the last three hours as known at any time."""

    def __init__(self, rows):
        self.rows = defaultdict(list)
        for row in sorted(rows, key=lambda r: r.recorded):
            self.rows[row.kitchen].append(row)

    def recent(self, kitchen, at, over=3 * HOUR):
        seen = [r.minutes for r in self.rows[kitchen] if at - over < r.delivered <= at and r.recorded <= at]
        return sum(seen) / len(seen) if seen else math.nan


def features(order, deliveries):
    """One transform: the same function makes training rows and the input of one request, so the two cannot differ."""
    recent = deliveries.recent(order.kitchen, order.placed)
    hour = order.placed % DAY / HOUR
    return [order.km, 25.0 if math.isnan(recent) else recent, math.cos((hour - 19) / 24 * 2 * math.pi)]


# 2 -- Steps with a content cache (tidemill/pipelines) -----------------------------------------------------------------------------
# A step's key is its source code and its inputs. The same key is never computed twice: not in the next run, not after a kill.

DB = sqlite3.connect(":memory:")  # the ledger: everything that happened, in one database (tidemill/ledger)
DB.executescript(
    """CREATE TABLE cache (key TEXT PRIMARY KEY, value BLOB);
    CREATE TABLE prediction (id INTEGER, version INTEGER, at INTEGER, score REAL, x BLOB, PRIMARY KEY (id, version));
    CREATE TABLE label (id INTEGER PRIMARY KEY, value INTEGER, known INTEGER);
    CREATE TABLE decision (at INTEGER, kind TEXT, version INTEGER, outcome TEXT, evidence TEXT);"""
)
CALLS = {"ran": 0, "cached": 0}


def step(function):
    def call(*arrays):
        key = hashlib.sha256(inspect.getsource(function).encode())
        for array in arrays:
            key.update(np.ascontiguousarray(array).tobytes())
        found = DB.execute("SELECT value FROM cache WHERE key = ?", (key.hexdigest(),)).fetchone()
        CALLS["cached" if found else "ran"] += 1
        if found:
            return np.frombuffer(found[0])
        value = function(*arrays)
        DB.execute("INSERT INTO cache VALUES (?, ?)", (key.hexdigest(), value.tobytes()))
        return value

    return call


# 3 -- A model (tidemill/training): logistic regression by Newton's method ---------------------------------------------------------


def design(x):
    scaled = (np.asarray(x, dtype=float) - [4.0, 25.0, 0.0]) / [3.0, 8.0, 1.0]
    return np.column_stack([np.ones(len(scaled)), scaled])


@step
def fit(x, y):
    """Weights that minimise the log loss, with a little shrinkage."""
    d, w = design(x), np.zeros(np.shape(x)[1] + 1)
    for _ in range(12):
        p = 1 / (1 + np.exp(-d @ w))
        curvature = d.T @ (d * (p * (1 - p))[:, None]) + 0.1 * np.eye(len(w))
        w = w + np.linalg.solve(curvature, d.T @ (y - p) - 0.1 * w)
    return w


def predict(weights, x):
    return 1 / (1 + np.exp(-design(x) @ weights))


def losses(p, y):
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


# 4 -- The gate (tidemill/retraining/gate.py) ----------------------------------------------------------------------------------------
# A challenger is promoted when it is better on the same rows by more than chance explains. Rows of one day are alike, so days count,
# not rows. Without this, "retrain and deploy" ships noise every month.


def gate(champion, challenger, x, y, day):
    difference = losses(predict(challenger, x), y) - losses(predict(champion, x), y)
    days = np.array([difference[day == d].mean() for d in np.unique(day)])
    error = days.std(ddof=1) / math.sqrt(len(days))
    upper = days.mean() + 2.0 * error  # one-sided 95 % for a handful of days
    return upper < 0, f"effect {days.mean():+.4f}, upper end {upper:+.4f}, {len(days)} days, {len(y)} orders"


# 5 -- Drift (tidemill/monitoring): the population stability index of what is served against what was learned from -------------------


def psi(baseline, now, bins=10):
    edges = np.quantile(baseline, np.linspace(0, 1, bins + 1)[1:-1])
    a, b = (np.bincount(np.searchsorted(edges, v), minlength=bins) + 0.5 for v in (baseline, now))
    a, b = a / a.sum(), b / b.sum()
    return float(((b - a) * np.log(b / a)).sum())


# 6 -- The loop (tidemill/retraining) --------------------------------------------------------------------------------------------------
# Level-triggered: each day it looks at what is and does what is missing. A replay of history runs exactly this, with another clock,
# so that a policy can be judged before anyone trusts it.


class Loop:
    def __init__(self, orders, deliveries, retrain, say=print):
        self.orders, self.deliveries, self.retrain, self.say = orders, deliveries, retrain, say
        self.known = Deliveries(deliveries)
        self.x = {o.id: features(o, self.known) for o in orders}
        self.champion, self.version, self.trained, self.baseline = None, 0, 0, None
        DB.executescript("DELETE FROM prediction; DELETE FROM label; DELETE FROM decision;")

    def labelled(self, since, until, now):
        """Orders placed in [since, until) whose outcome is known by now. Before that they are simply not there yet."""
        done = {d.order: d.minutes > 35 for d in self.deliveries if d.recorded <= now}
        rows = [o for o in self.orders if since <= o.placed < until and o.id in done]
        return (
            np.array([self.x[o.id] for o in rows]),
            np.array([float(done[o.id]) for o in rows]),
            np.array([o.placed // DAY for o in rows]),
        )

    def train(self, now, cause):
        x, y, _ = self.labelled(max(0, now - 21 * DAY), now - 5 * DAY, now)
        challenger = fit(x, y)
        held_out = self.labelled(now - 5 * DAY, now, now)  # learned from none of these
        passed, evidence = (True, "the first model") if self.champion is None else gate(self.champion, challenger, *held_out)
        self.trained = now
        self.decide(now, f"gate ({cause})", self.version + 1, "promote" if passed else "reject", evidence)
        if passed:
            self.champion, self.version, self.baseline = challenger, self.version + 1, x

    def decide(self, now, kind, version, outcome, evidence):
        """No promotion without a recorded reason."""
        DB.execute("INSERT INTO decision VALUES (?, ?, ?, ?, ?)", (now, kind, version, outcome, evidence))
        self.say(f"  day {now // DAY:2}  {kind:<16} version {version}: {outcome:<8} {evidence}")

    def serve(self, since, until):
        for order in (o for o in self.orders if since <= o.placed < until):
            x = self.x[order.id]  # as known at order.placed, not at the end of the day
            score = float(predict(self.champion, [x])[0])
            row = (order.id, self.version, order.placed, score, np.array(x).tobytes())
            DB.execute("INSERT OR IGNORE INTO prediction VALUES (?, ?, ?, ?, ?)", row)  # once, whatever happens

    def learn_labels(self, since, until):
        told = ((d.order, d.minutes > 35, d.recorded) for d in self.deliveries if since <= d.recorded < until)
        DB.executemany("INSERT OR REPLACE INTO label VALUES (?, ?, ?)", told)

    def drifted(self, now):
        rows = DB.execute("SELECT x FROM prediction WHERE at >= ? AND at < ?", (now - 5 * DAY, now)).fetchall()
        served = np.array([np.frombuffer(r[0]) for r in rows])
        return max(psi(self.baseline[:, i], served[:, i]) for i in range(served.shape[1])) if len(served) > 200 else 0.0

    def run(self, first, last):
        for day in range(first, last):
            now = day * DAY
            if self.champion is None:
                self.train(now, "first")
            elif self.retrain and now - self.trained >= 5 * DAY and (drift := self.drifted(now)) > 0.1:
                self.train(now, f"drift {drift:.2f}")
            self.serve(now, now + DAY)
            self.learn_labels(now, now + DAY)
        joined = DB.execute("SELECT p.score, l.value, p.at FROM prediction p JOIN label l USING (id)").fetchall()
        score, label, at = (np.array(column, dtype=float) for column in zip(*joined, strict=True))
        return losses(score, label), at // DAY


# 7 -- Where the rows come from: a world that changes on day 36 --------------------------------------------------------------------------


def world(days=60, a_day=90, change=36, seed=3):
    chance, orders, deliveries = random.Random(seed), [], []
    busy = dict.fromkeys(("dumpling", "noodle", "pizza", "taco"), 0.0)
    for day in range(days):
        for placed in sorted(day * DAY + int(chance.betavariate(3, 2) * DAY) for _ in range(a_day)):
            for kitchen in busy:
                busy[kitchen] = 0.97 * busy[kitchen] + chance.gauss(0, 1.5)
            kitchen, changed = chance.choice(list(busy)), day >= change
            km = chance.gammavariate(2.2, 2.0 if changed else 1.3)
            rush = 5 * math.cos((placed % DAY / HOUR - 19) / 24 * 2 * math.pi)
            minutes = 16 + km * (2.0 if changed else 3.6) + rush + 1.6 * busy[kitchen] + chance.gauss(0, 4)
            minutes = max(5.0, minutes + (6 if changed else 0))
            order = Order(len(orders), kitchen, km, placed)
            orders.append(order)
            deliveries.append(Delivery(order.id, kitchen, minutes, placed + int(minutes), placed + int(minutes) + 5 * MINUTE))
    return orders, deliveries


def main(say=print):
    orders, deliveries = world()
    results = {}
    for policy, retrain in (("never again", False), ("on drift", True)):
        say(f"\nretrain {policy}:")
        loop = Loop(orders, deliveries, retrain, say)
        loss, day = loop.run(first=15, last=60)
        results[policy] = float(loss.mean())
        bars = [float(loss[(day >= d) & (day < d + 3)].mean()) for d in range(15, 60, 3)]
        drawn = "".join("▁▂▃▄▅▆▇█"[min(7, int(max(0.0, b - 0.2) / 0.4 * 8))] for b in bars)
        say(f"  served log loss {loss.mean():.4f} over {len(loss)} labelled predictions   {drawn}   three days a bar")
    say(f"\nsteps: {CALLS['ran']} ran, {CALLS['cached']} came from the cache (the first model of the second policy was known already)")
    say(f"worth of the loop: {results['never again'] - results['on drift']:.4f} nats an order")
    prediction, version, score = DB.execute("SELECT id, version, score FROM prediction ORDER BY at DESC").fetchone()
    why = DB.execute("SELECT kind, outcome, evidence FROM decision WHERE version = ? AND outcome = 'promote'", (version,)).fetchone()
    say(f"why did order {prediction} get {score:.3f}? version {version}, let through by {why[0]}: {why[2]}")
    return results


if __name__ == "__main__":
    main()
