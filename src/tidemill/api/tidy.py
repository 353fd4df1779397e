"""JSON answers: NaN and infinities become null, because JSON has no other word for them."""

from typing import Any

import msgspec
from starlette.responses import JSONResponse


class TidyResponse(JSONResponse):
    """A JSON answer encoded by msgspec."""

    def render(self, content: Any) -> bytes:
        """Encode; large ints stay ints."""
        return msgspec.json.encode(content)
