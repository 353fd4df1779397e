"""Made-up payments of the last two hours up to now, a JSON object on each line, as a stream brings them.

python make_events.py [EVENTS] [SEED]

Of a hundred events some five come late, two come twice, two are corrected afterwards, and one in a thousand has a clock that is a day fast.
"""

import json
import random
import sys
import time

MINUTE = 60_000_000


def events(count: int, seed: int, now_us: int) -> list[dict[str, object]]:
    """So many payments, in the order in which they come; times in microseconds."""
    rng, made = random.Random(seed), list[dict[str, object]]()
    for i in range(count):
        paid = now_us - 120 * MINUTE * (count - i) // count
        late = rng.randrange(10 * MINUTE) if rng.random() < 0.05 else 0
        wrong = 24 * 60 * MINUTE if i % 1000 == 500 else 0
        amount = round(rng.lognormvariate(3, 1), 2)
        made.append(
            {"payment": f"{seed}-{i}", "card": f"c{rng.randrange(50)}", "shop": f"s{rng.randrange(20)}", "amount": amount,
             "paid_at": paid + wrong, "booked_at": min(now_us, paid + late)}
        )  # fmt: skip
        if rng.random() < 0.02:
            made.append(dict(made[-1]))
        elif rng.random() < 0.02:
            before = made[rng.randrange(max(0, len(made) - 50), len(made))]
            made.append({**before, "amount": round(float(str(before["amount"])) / 2, 2), "booked_at": min(now_us, paid + 1_000_000)})
    return made


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    for event in events(given[0] if given else 5000, given[1] if len(given) > 1 else 1, time.time_ns() // 1000):
        print(json.dumps(event))
