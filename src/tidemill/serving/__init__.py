"""Serving: from a request to a score that is remembered."""

from tidemill.serving.degraded import DegradedReader
from tidemill.serving.pins import Pins
from tidemill.serving.plan import Plan, compile_plan
from tidemill.serving.private import PrivateLog
from tidemill.serving.score import Lineup, Scorer
from tidemill.serving.tokens import Access, Tokens

__all__ = ["Access", "DegradedReader", "Lineup", "Pins", "Plan", "PrivateLog", "Scorer", "Tokens", "compile_plan"]
