"""Names for things.

What the loop makes is named by what it is made from (`derive`): doing it twice gives the same name, so a
killed and restarted loop cannot do a thing twice. Only what has no content of its own yet gets a random
name (`random_id`).
"""

import os
import time
from typing import Any

from tidemill.core import digests


def derive(kind: str, *parts: Any) -> str:
    """`kind-` and 16 hex digits of the JSON values `parts`: equal parts, equal id."""
    return f"{kind}-{digests.of_json(list(parts))[7:23]}"


def random_id(kind: str) -> str:
    """`kind-` and a UUIDv7-like value: 48 bits of milliseconds, then 80 random bits, so ids sort by age."""
    while True:
        try:
            return f"{kind}-{time.time_ns() // 1_000_000:012x}{_random.pop()}"
        except IndexError:
            bits = os.urandom(_BYTES * _AT_ONCE).hex()
            _random.extend(bits[i : i + 2 * _BYTES] for i in range(0, len(bits), 2 * _BYTES))


_BYTES, _AT_ONCE = 10, 256
_random: list[str] = []
"""Random texts that wait to be used: the system is asked for many at once. A fork starts without those of its parent."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.clear)
