"""Predictions for the rows of a table: many at once, resumable."""

from tidemill.platform.batch.predict import Asked, predict_batch

__all__ = ["Asked", "predict_batch"]
