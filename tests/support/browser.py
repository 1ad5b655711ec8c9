"""A real browser for tests: headless Chromium of this machine, driven by playwright, in an empty profile of its own."""

import contextlib
import importlib.util
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()


def need_browser() -> str:
    """Return the browser's path; without one skip the test by name, or fail it where CI=true promises a browser."""
    found, what = next(filter(None, map(shutil.which, NAMES)), None), None
    if importlib.util.find_spec("playwright") is None:
        what = "playwright is not installed: pip install -r requirements-dev.txt"
    elif found is None:
        what = f"none of {', '.join(NAMES)} is on the PATH; on Debian, apt-get install chromium"
    if what:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)
    return found


@contextlib.contextmanager
def open_browser():
    """Start Chromium and yield playwright's `Browser`; each of its contexts is an empty profile."""
    path = need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
