"""Screenshots of the console over the sample year, light and dark: `python -m tests.support.shoot docs/assets [PAGE …]`.

Without pages: `console.png` and `console-dark.png` of the home page, for the README, and `replay.png`. With `all`: every page.
"""

from __future__ import annotations

import sys
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
    with console("sample") as (url, token), chromium() as browser:
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
