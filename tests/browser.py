"""A real browser, Chromium as Debian has it, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

DESKTOP, PHONE, NARROW = (1280, 900), (390, 844), (320, 640)


@contextmanager
def running_browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page opened from disk without a network, and all that it asked for and said."""

    def __init__(self, browser: Browser, file: Path, size: tuple[int, int], **options: Any) -> None:
        viewport: Any = {"width": size[0], "height": size[1]}
        self.context = browser.new_context(viewport=viewport, offline=True, **options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.page.goto(file.as_uri())

    def faults(self) -> list[str]:
        """What axe-core finds to hinder whoever uses the page."""
        results = Axe().run(self.page).response
        assert len(results["passes"]) > 20
        return [
            f"{rule['id']} ({rule['impact']}): {node['target']}"
            for rule in results["violations"]
            for node in rule["nodes"]
        ]

    def loaded(self) -> list[str]:
        return [url for url in self.requests if not url.startswith("data:")]
