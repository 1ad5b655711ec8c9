"""A real browser for tests: headless Chromium of this machine, driven by playwright, in an empty profile of its own."""

import contextlib
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()


def missing() -> str | None:
    """Say what is missing for a browser test, or return `None`."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install -r requirements-dev.txt"
    if not any(map(shutil.which, NAMES)):
        return f"no Chromium found: none of {', '.join(NAMES)} is on the PATH; on Debian, apt-get install chromium"
    return None


def need_browser() -> str:
    """Return the browser's path; without one skip the test by name, or fail it where CI=true promises a browser."""
    if what := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)
    return next(path for path in map(shutil.which, NAMES) if path)


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
