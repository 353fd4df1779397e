"""Telling people: an alert that cannot be delivered is logged and holds nothing up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from tidemill.core.errors import UnavailableError
from tidemill.retraining.ports import Loop

logger = logging.getLogger(__name__)


def tell(loop: Loop, subject: str, body: Mapping[str, Any]) -> None:
    """Send an alert where alerts go somewhere."""
    if loop.alerts is None:
        return
    try:
        loop.alerts.send(subject, body)
    except UnavailableError as error:
        logger.error("alert.undelivered", extra={"reason": str(error)})
