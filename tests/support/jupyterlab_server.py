"""A Jupyter server for browser tests, on 127.0.0.1, and the page of one notebook in it.

With ipywidgets 8 it is JupyterLab; with Colab's ipywidgets 7 it is the classic Notebook, which that version was made
for. Nothing of it leaves the machine: no news, no search for updates, no extension manager.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from support import browser

CLASSIC = importlib.metadata.version("ipywidgets").startswith("7.")
MODULE = "notebook" if CLASSIC else "jupyterlab"
CELL, OUTPUT = (".cell", ".output_area") if CLASSIC else (".jp-Notebook .jp-Cell", ".jp-OutputArea-output")
QUIET = {  # of JupyterLab: a learner's own settings, but for what asks or fetches; the theme is the browser's
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "apputils-extension/themes": {"adaptive-theme": True},
}
OPTIONS = ["--no-browser", "--allow-root"]
LAB_OPTIONS = ["--LabApp.news_url=", "--LabApp.extension_manager=readonly"]
LAB_OPTIONS += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]


def need_jupyter() -> None:
    """Without a browser and a Jupyter server skip the test by name, or fail it where CI=true promises both."""
    browser.need_browser()
    if importlib.util.find_spec(MODULE) is None:
        what = f"{MODULE} is not installed: pip install -r requirements-dev.txt"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


@contextlib.contextmanager
def serve(folder: Path, home: Path):
    """Serve the notebooks of a folder, and yield (address, token); configuration and data are in an empty home."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = home / "settings"
    for name, values in QUIET.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    token, url, log = secrets.token_hex(16), f"http://127.0.0.1:{port}/", home / "server.log"
    own = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    own |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_TOKEN": token}
    app = "NotebookApp" if CLASSIC else "ServerApp"
    where = [f"--{app}.ip=127.0.0.1", f"--{app}.port={port}", f"--{app}.port_retries=0"]
    command = [sys.executable, "-m", MODULE, *OPTIONS, *where, *([] if CLASSIC else LAB_OPTIONS)]
    with log.open("w") as written:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=written, stderr=written)
    try:
        _wait_until_it_answers(server, f"{url}api", log)
        yield url, token
    finally:
        server.terminate()  # which ends its kernels too
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_it_answers(server, url: str, log: Path, seconds: float = 60) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < seconds and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{MODULE} does not answer at {url}:\n{log.read_text()[-3000:]}")


def write_notebook(path: Path, cells: dict[str, str]) -> None:
    code = [nbformat.v4.new_code_cell(source, id=name) for name, source in cells.items()]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": kernel}), path)


class NotebookPage:
    """A notebook in a tab: its cells by their names, run as a learner runs them."""

    def __init__(self, tab, url: str, token: str, path: Path):
        self.tab, self.requests, self.errors = tab, [], []
        self.names = [cell.id for cell in nbformat.read(path, as_version=4).cells]
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("websocket", lambda opened: self.requests.append(opened.url.replace("ws://", "http://", 1)))
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.goto(f"{url}{'notebooks' if CLASSIC else 'doc/tree'}/{path.name}?token={token}")
        self._ready()

    def _ready(self) -> None:
        if CLASSIC:
            self.tab.locator("#kernel_indicator_icon.kernel_idle_icon").wait_for(timeout=60_000)
        else:
            self.tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)

    def cell(self, name: str):
        return self.tab.locator(CELL).nth(self.names.index(name))

    def output(self, name: str):
        return self.cell(name).locator(OUTPUT)

    def failures(self):
        return self.tab.locator(OUTPUT).filter(has_text="Traceback (most recent call last)")

    def run_all(self) -> None:
        if CLASSIC:
            self.tab.locator("#celllink").click()
            self.tab.locator("#run_all_cells a").click()
        else:
            self.tab.get_by_role("menuitem", name="Run", exact=True).click()
            self.tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def rewrite(self, name: str, source: str) -> None:
        editor = self.cell(name).locator(".CodeMirror" if CLASSIC else ".cm-content")
        editor.click()
        self.tab.keyboard.press("Control+a")
        self.tab.keyboard.insert_text(source)
        self.tab.keyboard.press("Control+Enter")
