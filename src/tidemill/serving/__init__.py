"""Serving: from a request to a score that is remembered."""

from tidemill.serving.pins import Pins
from tidemill.serving.plan import Plan, compile_plan
from tidemill.serving.private import PrivateLog
from tidemill.serving.score import Lineup, Scorer
from tidemill.serving.tokens import Access, Tokens

__all__ = ["Access", "Lineup", "Pins", "Plan", "PrivateLog", "Scorer", "Tokens", "compile_plan"]
