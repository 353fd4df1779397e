"""Training sets to train on."""

import numpy as np
import pyarrow as pa
import pytest

from tidemill.core.instants import DAY_US
from tidemill.training.ports import TrainingSet


def make_rows(n: int = 1500, seed: int = 0, days: int = 20) -> TrainingSet:
    """Rows with numbers, nulls and a text, whose label depends on all of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    carrier = rng.choice(["AA", "B6", "UA"], n)
    y = (x[:, 0] + 0.5 * x[:, 1] ** 2 + (carrier == "B6") + rng.normal(size=n) > 1).astype(float)
    x[rng.random(n) < 0.1, 1] = np.nan
    columns = {
        "id": pa.array([f"f{i}" for i in range(n)]),
        "at": pa.array(np.sort(rng.integers(0, days * DAY_US, n))).cast(pa.timestamp("us", "UTC")),
        "a": pa.array(x[:, 0]),
        "b": pa.array(x[:, 1], from_pandas=True),
        "c": pa.array((x[:, 2] * 10).astype(np.int64)),
        "carrier": pa.array(carrier),
        "label": pa.array(y),
    }
    return TrainingSet(
        "delay", pa.table(columns), ("a", "b", "c", "carrier"), {"carrier": ("AA", "B6", "UA")}, days * DAY_US, {"landings": 7}
    )


@pytest.fixture(scope="session")
def rows() -> TrainingSet:
    return make_rows()
