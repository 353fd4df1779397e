"""Card payments as a stream: what each card and each shop has done until a moment ago.

    python make_events.py | tidemill push payments
    tidemill features follow --once
    tidemill features read spend --key '{"card": "c7"}'

Payments come over `push:` (HTTP, Python, the command line) into a log of the project. On Kafka the same project runs with
`-o stack.stream=kafka://127.0.0.1:9092/shop`; a topic that others write to is a source of its own, `kafka://127.0.0.1:9092/payments`.
"""

import tidemill as tm

card, shop = tm.Entity("card"), tm.Entity("shop")

payments = tm.Table("payments", source="push:", event_time="paid_at", known_time="booked_at", key="payment", skew="10m")

spend = tm.FeatureView(
    "spend",
    card,
    payments,
    [
        tm.sum("amount", over=("10m", "1d"), hop="1m"),
        tm.count(over=("10m", "1d"), hop="1m"),
        tm.distinct("shop", over="1d", hop="1h"),
        tm.expression("pace", "amount_sum_10m / amount_sum_1d"),
        tm.latest("amount", "shop", ttl="7d"),
    ],
    freshness="1m",
)
sales = tm.FeatureView(
    "sales", shop, payments, [tm.mean("amount", over="1h", hop="5m"), tm.count(over="1h", hop="5m", where="amount > 100")]
)
