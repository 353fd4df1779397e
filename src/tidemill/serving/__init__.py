"""Serving: from a request to a score that is remembered."""

from tidemill.serving.archived import ArchivedLog
from tidemill.serving.degraded import DegradedReader
from tidemill.serving.graph.scorer import scorer_for
from tidemill.serving.keeping import Keeping, table_of
from tidemill.serving.pins import Pins
from tidemill.serving.plan import Plan, compile_plan
from tidemill.serving.private import PrivateLog
from tidemill.serving.sampled import SampledLog
from tidemill.serving.score import Lineup, Scorer
from tidemill.serving.tokens import Access, Tokens

__all__ = [
    "Access",
    "ArchivedLog",
    "DegradedReader",
    "Keeping",
    "Lineup",
    "Pins",
    "Plan",
    "PrivateLog",
    "SampledLog",
    "Scorer",
    "Tokens",
    "compile_plan",
    "scorer_for",
    "table_of",
]
