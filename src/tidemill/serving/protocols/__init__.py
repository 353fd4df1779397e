"""The field's protocols, one module each: its paths, how bytes become a call, how answers become bytes, and its error shape.

`PROTOCOLS` is the whole list. JSON infer of the Open Inference Protocol, which most requests are, does not pass through here: the
server has its paths in a dictionary of their own.
"""

from tidemill.serving.protocols.base import Asked, Feedback, Found, Host, HttpProtocol, Router, deployed
from tidemill.serving.protocols.mlflow import MLflow
from tidemill.serving.protocols.oip import OpenInference
from tidemill.serving.protocols.platforms import AzureML, Vertex
from tidemill.serving.protocols.seldon import Seldon
from tidemill.serving.protocols.tensorflow import TensorFlowServing

PROTOCOLS: tuple[HttpProtocol, ...] = (OpenInference(), MLflow(), TensorFlowServing(), Seldon(), Vertex(), AzureML())

__all__ = ["PROTOCOLS", "Asked", "Feedback", "Found", "Host", "HttpProtocol", "Router", "deployed"]
