"""Models in processes of their own, with an environment of their own: nothing of them runs in the server."""

from tidemill.serving.apart.pool import Pool

__all__ = ["Pool"]
