"""A browser: Debian's Chromium, driven by Playwright.

With ``--update-golden`` the pictures in docs/images are taken anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

IMAGES = Path(__file__).parents[2] / "docs/images"
MOST_IMAGE_BYTES = 350_000
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
Open = Callable[..., Any]  # the page at an address
TakePicture = Callable[[Any, str], None]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra `dev`)")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """``open_page(url, **context)``: a fresh page, in which nothing may go wrong and nothing is asked elsewhere."""
    contexts: list[Any] = []
    faults: list[str] = []

    def open_at(url: str, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1000, "height": 900}, **settings})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if _is_fault(message) else None)
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((url, "data:", "blob:")) else faults.append(asked.url),
        )
        page.goto(url)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert faults == []


def _is_fault(message: Any) -> bool:
    return (
        message.type == "error" and "Failed to load resource" not in message.text
    )  # refusals are tested as such


@pytest.fixture
def take_picture(pytestconfig: pytest.Config) -> TakePicture:
    """``take_picture(page, name)`` writes docs/images/NAME.png where the option asks for it."""

    def take(page: Any, name: str) -> None:
        if pytestconfig.getoption("--update-golden"):
            path = IMAGES / f"{name}.png"
            page.screenshot(path=path)
            assert path.stat().st_size < MOST_IMAGE_BYTES

    return take
