"""Steps with a content cache, run as graphs."""

from tidemill.pipelines.closure import closure
from tidemill.pipelines.trace import Pipeline, pipeline, step

__all__ = ["Pipeline", "closure", "pipeline", "step"]
