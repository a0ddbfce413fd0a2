"""A real browser, and the page in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = "() => document.querySelector('#vetdino .app')?.dataset.matrix"


@pytest.fixture(scope="module")
def browser(address) -> Iterator[Any]:
    """Chromium; while it is open a loop of asyncio runs in this thread, so the server is started before."""
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address) -> Iterator[Callable[..., Any]]:
    """(hash, at=address, settings of the browser's context) -> the page, once its matrices are there.

    Afterwards: no request has left the machine, and the browser has logged no error.
    """
    outside: list[str] = []
    errors: list[str] = []
    contexts = []

    def opened(fragment: str = "", *, at: str = address, **settings: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1366, "height": 768}} | settings))
        contexts.append(context)
        page = context.new_page()
        inside = (at, "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(inside) or outside.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.goto(f"{at}/{fragment}")
        page.wait_for_function(READY)
        page.wait_for_selector(".app[aria-busy='false'] .pane[data-loaded^='/v1']")
        return page

    opened.errors = errors  # type: ignore[attr-defined]  # a test that provokes an error of the browser takes it out
    yield opened
    for context in contexts:
        context.close()
    assert outside == []
    assert errors == []


@pytest.fixture
def page(open_page) -> Any:
    return open_page()
