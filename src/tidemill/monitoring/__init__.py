"""Labels, labelled quality and drift of what is served."""

from tidemill.monitoring.drift import drift, profile_served
from tidemill.monitoring.labels import Stated, label_statements, label_states, push_labels, sync_labels
from tidemill.monitoring.observe import observe
from tidemill.monitoring.quality import quality

__all__ = ["Stated", "drift", "label_statements", "label_states", "observe", "profile_served", "push_labels", "quality", "sync_labels"]
