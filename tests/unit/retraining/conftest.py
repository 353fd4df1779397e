"""Fixtures of the retraining tests."""

from loop_world import make, world

__all__ = ["make", "world"]
