"""Labels, labelled quality and drift of what is served."""

from tidemill.monitoring.drift import drift, profile_served
from tidemill.monitoring.labels import sync_labels
from tidemill.monitoring.observe import observe
from tidemill.monitoring.quality import quality

__all__ = ["drift", "observe", "profile_served", "quality", "sync_labels"]
