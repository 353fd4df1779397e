"""Feast's feature server protocol: `/get-online-features`, `/push`, `/write-to-online-store`, `/health`."""

from tidemill.serving.feast.answer import Reader
from tidemill.serving.feast.push import Pusher
from tidemill.serving.feast.routes import FeatureRoutes
from tidemill.serving.feast.schemas import Schemas

__all__ = ["FeatureRoutes", "Pusher", "Reader", "Schemas"]
