"""An HTTP client that calls an application in this process, one request at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx


class Client:
    """`get` and `post` on an ASGI application; redirects are not followed, errors become answers as a server would make them."""

    def __init__(self, app: Any, token: str = "", *, cookie: str = "") -> None:
        self.app = app
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._cookies = {"tidemill_token": cookie} if cookie else {}

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET; `options` as httpx takes them."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """POST."""
        return self.request("POST", path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any method."""
        return asyncio.run(self._send(method, path, options))

    async def _send(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=self._headers, cookies=self._cookies
        ) as client:
            return await client.request(method, path, **options)
