"""How a process that runs for long writes its log."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from tidemill.core.logs import JsonFormatter

if TYPE_CHECKING:
    from tidemill.platform.config import Config

_TEXT = "%(asctime)s %(name)s %(levelname)s %(message)s"


def write_logs(config: Config) -> None:
    """Write log records to standard error as configured: text, or a JSON object a line. What is set up already stays."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.logs == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
