"""Training sets and models."""

from tidemill.core.priority import Share
from tidemill.training.codecs import ModelCodec, TrainingSetCodec
from tidemill.training.learners import deterministic, lightgbm_model, policy, provenance, score
from tidemill.training.measure import ModelEvaluator
from tidemill.training.onnxed import onnx_model
from tidemill.training.package import pack_model, read_model
from tidemill.training.pieces import SpinePieces, pieces
from tidemill.training.rows import encode, encode_columns, is_text
from tidemill.training.source import FrameSource
from tidemill.training.steps import evaluate, holdout, training_set

__all__ = [
    "FrameSource",
    "ModelCodec",
    "ModelEvaluator",
    "Share",
    "SpinePieces",
    "TrainingSetCodec",
    "deterministic",
    "encode",
    "encode_columns",
    "evaluate",
    "holdout",
    "is_text",
    "lightgbm_model",
    "onnx_model",
    "pack_model",
    "pieces",
    "policy",
    "provenance",
    "read_model",
    "score",
    "training_set",
]
