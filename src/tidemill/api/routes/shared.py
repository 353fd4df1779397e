"""What every route takes: the platform behind the request, and the bounds of a listing."""

from typing import Annotated

from fastapi import Depends, Query, Request

from tidemill.api.needs import Needs


def _platform(request: Request) -> Needs:
    platform: Needs = request.app.state.platform
    return platform


Platform = Annotated[Needs, Depends(_platform)]
Offset = Annotated[int, Query(ge=0, description="rows to skip")]
Limit = Annotated[int, Query(ge=1, le=200, description="rows to answer")]
