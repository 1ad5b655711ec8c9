"""The static site: `make site` out of the series' executed notebooks, once, and then every page in a real browser."""

import functools
import http.server
import importlib.util
import os
import re
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag

import pytest
from support import browser

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.timeout(900)]

# What a page holds, asked when its formulas are set.
LOOK = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
    const text = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), dollars = [];
    while (text.nextNode()) {
        if (text.currentNode.parentElement.closest('pre, code, script, style, mjx-container, .cell_output')) continue;
        dollars.push(...(text.currentNode.data.match(/\\$(?![\\d\\s])[^$]+\\$|\\\\\\(|\\\\\\[/g) || []));
    }
    const formulas = [...document.querySelectorAll('.math')];
    return {
        links: [...document.querySelectorAll('a[href]')].map(link => link.href),
        ids: [...document.querySelectorAll('[id]')].map(one => one.id),
        images: [...document.images].map(image => [image.currentSrc.slice(0, 80), image.naturalWidth, image.alt]),
        formulas: formulas.length,
        unset: formulas.filter(one => !one.querySelector('mjx-container')).map(one => one.textContent),
        dollars,
        folded: [...document.querySelectorAll('.tag_hide-input details')].map(one => one.open),
        text: document.body.innerText,
    };
}"""


def make(target: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", target, *options], cwd=ROOT, capture_output=True, text=True)


def walk(folder: Path) -> tuple[dict, list[str]]:
    """Serve a folder and open its pages: what each of them holds, by its path, and sentences on all that is wrong."""
    seen, wrong = {}, []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(folder.parent))  # a project's page is in a folder of its host
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser.open_browser() as chromium:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/{folder.name}/"
        page, now = chromium.new_page(), SimpleNamespace(name="")
        page.on("console", lambda said: said.type == "error" and wrong.append(f"{now.name}: console: {said.text}"))
        page.on("pageerror", lambda error: wrong.append(f"{now.name}: {error}"))
        page.on("response", lambda got: got.status >= 400 and wrong.append(f"{now.name}: {got.status} {got.url}"))
        own = (base, "data:", "blob:")
        page.on("request", lambda a: a.url.startswith(own) or wrong.append(f"{now.name}: asks outside: {a.url[:200]}"))
        for path in sorted(folder.rglob("*.html")):
            now.name = path.relative_to(folder).as_posix()
            page.goto(base + now.name)
            seen[now.name] = found = page.evaluate(LOOK)
            wrong += [f"{now.name}: no picture {source}" for source, width, _ in found["images"] if not width]
            wrong += [f"{now.name}: no alt text for {source}" for source, _, alt in found["images"] if not alt.strip()]
            wrong += [f"{now.name}: formula not set: {text}" for text in found["unset"]]
            wrong += [f"{now.name}: raw formula: {text}" for text in found["dollars"]]
        for name, found in seen.items():
            for link in found["links"]:
                target, anchor = urldefrag(link)
                to = unquote(target.removeprefix(base)).split("?")[0] or "index.html"
                lost = target.startswith(base) and not (folder / to).is_file()
                lost = lost or re.match(r"(https?://127\.0\.0\.1|file:)", target.replace(base, ""))
                if lost or (anchor and to in seen and unquote(anchor) not in seen[to]["ids"]):
                    wrong.append(f"{name}: broken link {link}")
        server.shutdown()
    return seen, wrong


@pytest.fixture(scope="module")
def site(course, tmp_path_factory):
    """The site of the series, in a folder with a space in its path, and what its pages hold."""
    browser.need_browser()
    made = make("site-environment")
    if made.returncode:  # no registry is promised to a learner's machine
        why = f"the environment of the site cannot be made here: {made.stderr[-500:]}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    folder = tmp_path_factory.mktemp("a site") / "orpo-course"
    made = make("site", f"COURSE={course[1]}", f"SITE={folder}")
    assert made.returncode == 0, made.stderr[-3000:]
    assert "WARNING" not in made.stderr and "has no outputs" not in made.stdout
    seen, wrong = walk(folder)
    return SimpleNamespace(folder=folder, seen=seen, wrong=wrong)


def test_every_notebook_is_a_page_and_nothing_is_wrong_on_any(site):
    assert not site.wrong, "\n".join(site.wrong)
    notebooks = sorted((ROOT / "notebooks").glob("**/[0-9][0-9]_*.ipynb"))
    pages = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in notebooks]
    texts = [f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.md")]
    linked = "\n".join(site.seen["index.html"]["links"])
    for page in pages + texts:
        assert f"/{page}" in linked, f"the contents do not lead to {page}"
        if page in pages and "/solutions/" not in page:
            assert "cell_output" in (site.folder / page).read_text(encoding="utf-8")
            assert "The outputs of this page" in site.seen[page]["text"]
            assert site.seen[page]["folded"] == [False], f"{page}: the setup cell is not folded"
    assert sum(found["formulas"] for found in site.seen.values()) > 5
    assert sum(len(found["images"]) for found in site.seen.values()) > 20


def test_nothing_is_left_of_widgets_progress_bars_and_the_machine(site, course):
    left = ("widget-view+json", "state not found", "VBox(", "<iframe", "<style>pre", "0%|", str(course[1]), f"{ROOT}/")
    for path in site.folder.rglob("*.html"):
        markup = path.read_text(encoding="utf-8")
        assert not [word for word in left if word in markup], path.name
    explorer = (site.folder / "notebooks" / "04_read_the_curves.html").read_text(encoding="utf-8")
    assert re.search(r"controls.*?Runs: your run; Panels: .*?; Steps: 0 to \d+.*?<img", explorer, flags=re.DOTALL)


def test_the_site_opens_from_the_disk_and_is_searched(site):
    wrong = []
    with browser.open_browser() as chromium:
        page = chromium.new_page()
        # The search would show a line of each page that it finds, which a browser reads from a server only.
        page.on("requestfailed", lambda asked: asked.url.endswith(".html") or wrong.append(asked.url))
        page.goto((site.folder / "index.html").as_uri())
        page.get_by_role("link", name="03 Train with ORPO", exact=True).first.click()
        page.wait_for_url("**/03_train_with_orpo.html")
        page.goto((site.folder / "search.html").as_uri() + "?q=margin")
        page.get_by_text("Search finished", exact=False).wait_for()
        assert page.locator("#search-results li").count() > 3 and not wrong


def test_what_is_no_site_is_not_replaced(site, course, tmp_path):
    for also in ([], [".nojekyll", ".git"]):
        for name in ("letter.txt", *also):
            (tmp_path / name).write_text("Dear Ada")
        made = make("site", f"COURSE={course[1]}", f"SITE={tmp_path}")
        assert made.returncode and "something else than a site" in made.stderr
        assert (tmp_path / "letter.txt").read_text() == "Dear Ada"


FAULTY = {
    "<a href='none.html'>a</a>": "broken link",
    "<a href='index.html#none'>a</a>": "broken link",
    "<img src='none.png' alt='a'>": "no picture",
    "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw=' alt=''>": "no alt text",
    "<span class='math'>x^2</span>": "formula not set",
    "<p>where $x^2$ is</p>": "raw formula",
    "<script src='http://127.0.0.1:9/a.js'></script>": "asks outside",
    "<script>throw Error('a')</script>": "html: a",
}


def test_what_is_wrong_is_found(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    head = "<!doctype html><link rel=icon href='data:,'><title>a</title><p>It costs $5, or $6.</p>"
    (folder / "index.html").write_text(f"{head}<a href='index.html'>a</a>")
    for number, fault in enumerate(FAULTY):
        (folder / f"{number}.html").write_text(head + fault)
    wrong = walk(folder)[1]
    assert not [line for line in wrong if line.startswith("index")]
    for number, expected in enumerate(FAULTY.values()):
        assert any(line.startswith(f"{number}.html") and expected in line for line in wrong), f"missed: {expected}"


def test_a_link_leads_to_a_page_or_into_the_repository():
    spec = importlib.util.spec_from_file_location("site_build", ROOT / "site" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    repository = "https://github.com/you/course/blob/main"
    led = {
        "[a page](05_merge_and_push.ipynb#push)": "[a page](05_merge_and_push.ipynb#push)",
        "[the contents](../README.md#contents)": "[the contents](../index.md#contents)",
        "[a helper](../utils/train/memory.py)": f"[a helper]({repository}/utils/train/memory.py)",
        "![a picture](../images/00_pipeline.svg)": "![a picture](../images/00_pipeline.svg)",
        "[![Open](https://elsewhere/badge.svg)](https://colab/x)": "[Open](https://colab/x)",
        "`[code](../utils/train/memory.py)`": "`[code](../utils/train/memory.py)`",
    }
    pages = ["notebooks/04_read_the_curves.ipynb", "notebooks/05_merge_and_push.ipynb"]
    assert {text: build.rewrite_links(text, pages[0], pages, repository) for text in led} == led
