"""Fixtures of the monitoring tests."""

from tests.support.monitoring_stage import stage

__all__ = ["stage"]
