"""Feature values, equal offline and online."""

from tidemill.core.meaning import table_digest, view_digest
from tidemill.features.frame import training_frame
from tidemill.features.materialize import materialize
from tidemill.features.ondemand import append_on_demand, apply_on_demand, arrays
from tidemill.features.verify import verify

__all__ = [
    "append_on_demand",
    "apply_on_demand",
    "arrays",
    "materialize",
    "table_digest",
    "training_frame",
    "verify",
    "view_digest",
]
