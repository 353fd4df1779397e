"""The field's protocols, one module each: its paths, how bytes become a call, how answers become bytes, and its error shape.

`PROTOCOLS` is the whole list. JSON infer of the Open Inference Protocol, which most requests are, does not pass through here: the
server has its paths in a dictionary of their own.
"""

from tidemill.serving.protocols.base import Asked, Feedback, Found, Host, HttpProtocol, Router, deployed
from tidemill.serving.protocols.oip import OpenInference

PROTOCOLS: tuple[HttpProtocol, ...] = (OpenInference(),)

__all__ = ["PROTOCOLS", "Asked", "Feedback", "Found", "Host", "HttpProtocol", "Router", "deployed"]
