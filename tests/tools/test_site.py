"""The static site: `make site` out of the course's executed notebooks, then every page in a real browser."""

import contextlib
import filecmp
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
SCREENSHOTS = ROOT / "artifacts" / "screenshots"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 400, "height": 800}
FOLDER = "/orpo-course/"  # a project's page at GitHub lies in a folder of its host
pytestmark = [pytest.mark.timeout(600)]

# What a page holds, asked when its formulas are set.
LOOK = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
    const text = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), dollars = [];
    while (text.nextNode()) {
        const inside = text.currentNode.parentElement;
        if (inside.closest('pre, code, script, style, mjx-container, .output, .cell_output')) continue;
        dollars.push(...(text.currentNode.data.match(/\\$(?![\\d\\s])[^$]+\\$|\\\\\\(|\\\\\\[/g) || []));
    }
    const formulas = [...document.querySelectorAll('.math')];
    return {
        title: document.title,
        links: [...document.querySelectorAll('a[href]')].map(link => link.href),
        ids: [...document.querySelectorAll('[id]')].map(one => one.id),
        images: [...document.images].map(image => [image.currentSrc.slice(0, 80), image.naturalWidth, image.alt]),
        formulas: formulas.length,
        unset: formulas.filter(one => !one.querySelector('mjx-container')).map(one => one.textContent),
        faults: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(one => one.outerHTML),
        dollars,
        folded: [...document.querySelectorAll('.tag_hide-input details')].map(one => one.open),
        text: document.body.innerText,
    };
}"""
# Text that hardly stands out from its ground: less than three to one by the rule of WCAG.
FAINT = """() => {
    const numbers = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
    const light = colour => numbers(colour).slice(0, 3).map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
    const article = document.querySelector('article') || document.body, faint = [];
    const text = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    while (text.nextNode()) {
        const inside = text.currentNode.parentElement;
        if (!text.currentNode.data.trim() || !inside.checkVisibility()) continue;
        if (inside.closest('mjx-assistive-mml, .headerlink, .search-button__kbd-shortcut')) continue;
        let ground = inside;
        while (ground.parentElement && numbers(getComputedStyle(ground).backgroundColor)[3] === 0)
            ground = ground.parentElement;
        const [a, b] = [inside, ground].map((one, place) =>
            light(getComputedStyle(one)[place ? 'backgroundColor' : 'color']));
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 3) faint.push(contrast.toFixed(1) + ': ' + text.currentNode.data.trim().slice(0, 40));
    }
    return faint;
}"""
ACROSS = "() => document.scrollingElement.scrollWidth - document.documentElement.clientWidth"


def install() -> None:
    """Make the site's environment; without a registry skip the test by name, or fail it where CI=true promises one."""
    made = subprocess.run(["make", "site-environment"], cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        why = f"the environment of the site cannot be made here: {made.stderr[-500:]}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


def build(course: Path, output: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", "site", f"COURSE={course}", f"SITE={output}"], cwd=ROOT, capture_output=True, text=True
    )


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder on 127.0.0.1, and yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def walk(folder: Path) -> tuple[dict, list[str]]:
    """Open every page of a folder, wide and as on a phone, light and dark.

    Returns:
        What each page holds, by its path, and sentences on all that is wrong.
    """
    seen, wrong = {}, []
    with served(folder.parent) as address, browser.open_browser() as chromium:
        base = f"{address}/{folder.name}/"
        page = chromium.new_page(viewport=WIDE, reduced_motion="reduce")
        now = SimpleNamespace(name="")
        page.on("console", lambda said: said.type == "error" and wrong.append(f"{now.name}: console: {said.text}"))
        page.on("pageerror", lambda error: wrong.append(f"{now.name}: {error}"))
        page.on("requestfailed", lambda asked: wrong.append(f"{now.name}: no answer from {asked.url}"))
        page.on("response", lambda got: got.status >= 400 and wrong.append(f"{now.name}: {got.status} {got.url}"))

        def outside(asked):
            if not asked.url.startswith((base, "data:", "blob:")):
                wrong.append(f"{now.name}: asks outside of the site: {asked.url[:200]}")

        page.on("request", outside)
        for path in sorted(folder.rglob("*.html")):
            now.name = path.relative_to(folder).as_posix()
            page.set_viewport_size(WIDE)
            page.goto(base + now.name)
            seen[now.name] = found = page.evaluate(LOOK)
            wrong += page_faults(now.name, found)
            for theme in ("dark", "light"):
                page.emulate_media(color_scheme=theme)
                wrong += [f"{now.name}: faint in the {theme} theme, {text}" for text in page.evaluate(FAINT)]
            sideways = {"wide": page.evaluate(ACROSS)}
            page.set_viewport_size(PHONE)
            sideways["a phone"] = page.evaluate(ACROSS)
            wrong += [f"{now.name}: scrolls {by} px sideways, {how}" for how, by in sideways.items() if by > 0]
        for name, found in seen.items():
            wrong += [f"{name}: broken link {link}" for link in broken(found["links"], base, folder, seen)]
    return seen, wrong


def page_faults(name: str, found: dict) -> list[str]:
    wrong = [f"{name}: no picture {source}" for source, width, _ in found["images"] if not width]
    wrong += [f"{name}: no alt text for {source}" for source, _, alt in found["images"] if not alt.strip()]
    wrong += [f"{name}: formula not set: {text}" for text in found["unset"] + found["faults"]]
    wrong += [f"{name}: raw formula: {text}" for text in found["dollars"]]
    twice = {one for one in found["ids"] if found["ids"].count(one) > 1}
    return wrong + [f"{name}: id {one} twice" for one in sorted(twice)]


def broken(links: list[str], base: str, folder: Path, seen: dict) -> list[str]:
    """The links of a page that lead to no page, file or anchor of the site; links to other hosts are not followed."""
    found = []
    for link in links:
        target, anchor = urldefrag(link)
        if not target.startswith(base):
            inside = re.match(r"(https?://127\.0\.0\.1|file:)", target)
            found += [link] * bool(inside)
            continue
        name = unquote(target.removeprefix(base)).split("?")[0] or "index.html"
        there = (folder / name).is_file()
        if not there or (anchor and name in seen and unquote(anchor) not in seen[name]["ids"]):
            found.append(link)
    return found


@pytest.fixture(scope="module")
def site(course, tmp_path_factory):
    """The site of the course's own run, in a folder with a space in its path, and what make said."""
    browser.need_browser()
    install()
    output = tmp_path_factory.mktemp("a site") / FOLDER.strip("/")
    made = build(course[1], output)
    assert made.returncode == 0, made.stderr[-3000:]
    return SimpleNamespace(folder=output, said=made.stdout, warned=made.stderr)


@pytest.fixture(scope="module")
def walked(site):
    return walk(site.folder)


@pytest.mark.parametrize("name", ["index", "04_read_the_curves"])
def test_screenshots(site, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with served(site.folder.parent) as address, browser.open_browser() as chromium:
        for place, size in {"wide": WIDE, "phone": PHONE}.items():
            for theme in ("light", "dark"):
                page = chromium.new_page(viewport=size, color_scheme=theme)
                page.goto(f"{address}{FOLDER}{'' if name == 'index' else 'notebooks/'}{name}.html")
                assert page.evaluate(LOOK)["title"] and page.evaluate("document.documentElement.dataset.theme") == theme
                file = SCREENSHOTS / f"site_{name}_{place}_{theme}.png"
                page.screenshot(
                    path=file, full_page=True, clip={"x": 0, "y": 0, "width": size["width"], "height": 5000}
                )
                page.close()


def test_the_site_opens_from_the_disk(site):
    wrong = []
    with browser.open_browser() as chromium:
        page = chromium.new_page()
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.on("requestfailed", lambda asked: wrong.append(asked.url))
        page.goto((site.folder / "index.html").as_uri())
        page.get_by_role("link", name="03 Train with ORPO", exact=True).first.click()
        page.wait_for_url("**/03_train_with_orpo.html")
        found = page.evaluate(LOOK)
    assert found["title"].startswith("Train with ORPO") and found["formulas"] and not found["unset"] and not wrong


def test_the_search_finds_a_word(site):
    with served(site.folder.parent) as address, browser.open_browser() as chromium:
        page = chromium.new_page()
        page.goto(f"{address}{FOLDER}search.html?q=margin")
        page.get_by_text("Search finished", exact=False).wait_for()
        assert page.locator("#search-results li").count() > 3


@pytest.mark.parametrize("also", [[], [".nojekyll", ".git"]])
def test_what_is_no_site_is_not_replaced(site, course, tmp_path, also):
    for name in ("letter.txt", *also):
        (tmp_path / name).write_text("Dear Ada")
    made = build(course[1], tmp_path)
    assert made.returncode and "something else than a site" in made.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"letter.txt", *also}


FAULTY = {
    "<a href='none.html'>a</a>": "broken link",
    "<a href='index.html#none'>a</a>": "broken link",
    "<img src='none.png' alt='a'>": "no picture",
    "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw=' alt=''>": "no alt text",
    "<span class='math'>x^2</span>": "formula not set",
    "<p>where $x^2$ is</p>": "raw formula",
    "<script src='http://127.0.0.1:9/a.js'></script>": "outside of the site",
    "<script>throw Error('a')</script>": "html: a",
    "<script>console.error('b')</script>": "console: b",
    "<i id='a'></i><i id='a'></i>": "id a twice",
    "<div style='width: 500px'>a</div>": "sideways, a phone",
    "<p style='color: #ddd; background: #fff'>a</p>": "faint",
}


def test_what_is_wrong_is_found(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    head = "<!doctype html><link rel=icon href='data:,'><title>a</title>"
    sound = "<p>It costs $5, or $6.</p><article style='color: #000; background: #fff'>{}</article>"
    (folder / "index.html").write_text(head + sound.format("<a href='index.html'>a</a>"))
    assert walk(folder)[1] == []
    for number, fault in enumerate(FAULTY):
        (folder / f"{number}.html").write_text(head + sound.format(fault))
    wrong = walk(folder)[1]
    for number, (fault, expected) in enumerate(FAULTY.items()):
        assert any(line.startswith(f"{number}.html") and expected in line for line in wrong), f"missed: {fault}"


def test_nothing_is_wrong_on_any_page(walked):
    assert not walked[1], "\n".join(walked[1])


def test_every_notebook_is_a_page_in_the_contents_with_its_outputs(site, walked):
    seen = walked[0]
    notebooks = sorted((ROOT / "notebooks").glob("**/[0-9][0-9]_*.ipynb"))
    pages = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in notebooks]
    texts = [f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.md")]
    assert pages and {*pages, *texts, "CONTRIBUTING.html"} <= set(seen)
    linked = "\n".join(seen["index.html"]["links"])
    for page in pages + texts:
        assert f"/{page}" in linked, f"the contents do not lead to {page}"
        if page in pages and "/solutions/" not in page:
            markup = (site.folder / page).read_text(encoding="utf-8")
            assert "cell_output" in markup and "The outputs of this page" in seen[page]["text"]
            assert seen[page]["folded"] == [False], f"{page}: the setup cell is not folded"
    assert sum(found["formulas"] for found in seen.values()) > 5
    assert sum(len(found["images"]) for found in seen.values()) > 20


def test_a_link_leads_to_a_page_or_into_the_repository():
    spec = importlib.util.spec_from_file_location("site_build", ROOT / "site" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    led = {
        "[a page](05_merge_and_push.ipynb#push)": "[a page](05_merge_and_push.ipynb#push)",
        "[the contents](../README.md#contents)": "[the contents](../index.md#contents)",
        "[a helper](../utils/train/memory.py)": "[a helper](https://github.com/you/course/blob/main/utils/train/memory.py)",
        "![a picture](../images/00_pipeline.svg)": "![a picture](../images/00_pipeline.svg)",
        "[![Open](https://elsewhere/badge.svg)](https://colab/x)": "[Open](https://colab/x)",
        "`[code](../utils/train/memory.py)`": "`[code](../utils/train/memory.py)`",
    }
    pages = ["notebooks/04_read_the_curves.ipynb", "notebooks/05_merge_and_push.ipynb"]
    found = {
        text: build.rewrite_links(text, pages[0], pages, "https://github.com/you/course/blob/main") for text in led
    }
    assert found == led


def test_nothing_is_left_of_widgets_and_of_the_machine(site, course):
    for path in site.folder.rglob("*.html"):
        markup = path.read_text(encoding="utf-8")
        for word in (
            "widget-view+json",
            "state not found",
            "VBox(",
            "<iframe",
            "<style>pre",
            str(course[1]),
            str(ROOT) + "/",
        ):
            assert word not in markup, f"{path.name} holds {word}"
    explorer = (site.folder / "notebooks" / "04_read_the_curves.html").read_text(encoding="utf-8")
    assert re.search(
        r"controls stand here. Runs: your run; Panels: .*?; Steps: 0 to \d+.*?<img", explorer, flags=re.DOTALL
    )


def test_make_says_what_it_did(site, course):
    assert "WARNING" not in site.warned and "has no outputs" not in site.said and "changed since" not in site.said
    assert re.search(r"made \d+\.\d hours ago", site.said) and (site.folder / "index.html").as_uri() in site.said


def test_two_builds_are_the_same(site, course, tmp_path):
    assert build(course[1], tmp_path / "again").returncode == 0
    first, second = (
        sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in (site.folder, tmp_path / "again")
    )
    assert first == second
    _, differ, failed = filecmp.cmpfiles(site.folder, tmp_path / "again", first, shallow=False)
    assert not differ and not failed
