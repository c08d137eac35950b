"""A headless Chromium for tests of pages; without one they are skipped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-file-access-from-files",  # a test reads the pixels of a video that lies beside its page
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on the path")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield started
        started.close()


def console_of(page: Any) -> list[str]:
    """What a page will complain of, as it does; but not that a test reads pixels."""
    said: list[str] = []
    page.set_default_timeout(6000)

    def hear(message: Any) -> None:
        if message.type in ("error", "warning") and "willReadFrequently" not in message.text:
            said.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


def until(page: Any, expression: str, *, within_s: float = 6.0) -> None:
    """Wait until an expression is true; playwright's own way needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + within_s
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(30)
