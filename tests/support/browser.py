"""A real browser and a real console for tests and screenshots. The browser is the system's Chromium; Playwright brings none here."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Response, sync_playwright

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def executable() -> str | None:
    """Where Chromium is, None without one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium with a profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def console(kind: str, home: Path | None = None) -> Iterator[tuple[str, str]]:
    """A server over the sample year (`sample`) or over nothing (`empty`): its address and an admin's token. `home`: where its files are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.console_server", str(port), kind, *([str(home)] if home else [])]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        _wait(port)
        yield f"http://127.0.0.1:{port}", token
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        import time

        time.sleep(0.05)
    raise AssertionError(f"the console did not start on port {port}")


class Page:
    """One tab that remembers what the browser complained of."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.raw = context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.raw.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.raw.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.raw.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else self.foreign.append(r.url))

    def log_in(self, token: str) -> None:
        """Through the form, as a person would."""
        self.open("/login")
        self.raw.fill("#token", token)
        self.raw.click("button[type=submit]")
        self.raw.wait_for_url(f"{self.url}/")

    def open(self, path: str) -> Response:
        """Load a page of the console."""
        response = self.raw.goto(f"{self.url}{path}", wait_until="load")
        assert response is not None
        return response
