"""Validation: what a table should look like, and whether a batch does."""

from tidemill.validation.check import check
from tidemill.validation.infer import infer

__all__ = ["check", "infer"]
