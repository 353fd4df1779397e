"""Fixtures of the retraining tests."""

from tests.support.loop_world import make, world

__all__ = ["make", "world"]
