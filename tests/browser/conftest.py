"""A real browser for the pages of the embedded server. `make test-browser` installs what drives it;
where it or Chromium is missing, these tests are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, started

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser, started once."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: run `make test-browser`"
    )
    if _CHROMIUM is None:
        pytest.skip("Chromium is missing (on Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a window of its own, with the options of a Playwright context. Errors of
    scripts, and what the Content-Security-Policy has stopped, fail the test.
    """
    contexts: list[Any] = []
    problems: list[str] = []

    def open_page(url: str, **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: _note(problems, message))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def _note(problems: list[str], message: Any) -> None:
    # an answer with an error status, and a lost connection, are what some tests are about
    if message.type == "error" and "Failed to load resource" not in message.text:
        problems.append(message.text)


@pytest.fixture
def api() -> Iterator[Api]:
    """Calls to a server whose engine does sums at once."""
    with started(RecordingEngine()) as api:
        yield api
