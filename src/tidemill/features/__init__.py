"""Feature values, equal offline and online."""

from tidemill.core.meaning import view_digest
from tidemill.features.frame import training_frame
from tidemill.features.freshness import ONLINE, freshness, in_words, note_online
from tidemill.features.freshness import note as note_freshness
from tidemill.features.materialize import materialize, stale
from tidemill.features.ondemand import append_on_demand, apply_on_demand, arrays
from tidemill.features.verify import verify
from tidemill.features.versions import deprecate, drop_unread, note_published, number, pinned, readers, remembered, versions

__all__ = [
    "ONLINE",
    "append_on_demand",
    "apply_on_demand",
    "arrays",
    "deprecate",
    "drop_unread",
    "freshness",
    "in_words",
    "materialize",
    "note_freshness",
    "note_online",
    "note_published",
    "number",
    "pinned",
    "readers",
    "remembered",
    "stale",
    "training_frame",
    "verify",
    "versions",
    "view_digest",
]
