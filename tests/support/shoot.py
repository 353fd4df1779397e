"""Screenshots of a console, light and dark: `python -m tests.support.shoot FOLDER [PAGE …]`.

Without pages: `console.png` (home) and `replay.png`, each with a `-dark` twin; `all`: every page; or names and paths.

It shows the invented sample year, which is for looking at pages only. For pictures that are published, name a console over a
real ledger: `TIDEMILL_CONSOLE=http://127.0.0.1:8400 TIDEMILL_TOKEN=tm_… python -m tests.support.shoot docs/assets`.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

from tests.support.browser import Page, chromium, console

PAGES = {
    "loop": "/", "data": "/data", "table": "/data/landings", "features": "/features", "explain": "/features/legs?tailnum=N110UA&at=2013-12-30T12:00:00Z",
    "runs": "/runs", "models": "/models", "version": "/models/flight-delay/6", "services": "/services", "monitoring": "/monitoring",
    "decisions": "/decisions", "replay": "/replay", "prediction": "/predictions/flight-0400",
}  # fmt: skip


def main(folder: Path, wanted: list[str]) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(PAGES) if wanted == ["all"] else wanted or ["loop", "replay"]
    real = os.environ.get("TIDEMILL_CONSOLE")
    started = nullcontext((real, os.environ.get("TIDEMILL_TOKEN", ""))) if real else console("sample")
    with started as (url, token), chromium() as browser:
        for theme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=theme, reduced_motion="reduce")
            page = Page(context, url)
            page.log_in(token)
            for name in names:
                page.open(PAGES.get(name, name))
                page.raw.wait_for_timeout(700)
                stem = "console" if name == "loop" else name.strip("/").replace("/", "-")
                page.raw.screenshot(path=folder / f"{stem}{'-dark' if theme == 'dark' else ''}.png", full_page=bool(wanted))
            context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
