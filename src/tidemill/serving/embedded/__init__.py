"""Serving without servers of others: ONNX Runtime or LightGBM in process, routes from the ledger, predictions in SQLite."""

from tidemill.serving.embedded.log import SqlitePredictionLog
from tidemill.serving.embedded.router import LedgerRouter
from tidemill.serving.embedded.runtime import OnnxRuntime

__all__ = ["LedgerRouter", "OnnxRuntime", "SqlitePredictionLog"]
