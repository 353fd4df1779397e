"""Fixtures of the monitoring tests."""

from monitoring_stage import stage

__all__ = ["stage"]
