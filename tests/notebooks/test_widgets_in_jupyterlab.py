"""The widgets of the notebooks in a real Jupyter, moved with keyboard and mouse in headless Chromium.

The cells that make them are the notebooks' own, on small inputs, all in one notebook that the test writes. With
ipywidgets 8 it opens in JupyterLab, with Colab's ipywidgets 7 in the classic Notebook; see `jupyterlab_server`.
"""

import importlib.util
import re
import time
from pathlib import Path

import nbformat
import pytest
from support import browser, jupyterlab_server

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "artifacts" / "screenshots"
CLASSIC = jupyterlab_server.CLASSIC
WIDE, PHONE = {"width": 1280, "height": 1500}, {"width": 400, "height": 1900}

pytestmark = pytest.mark.timeout(180)  # the first test waits for the server, the kernel and all cells

IMPORTS = f"""
import json, os, sys
os.chdir({str(ROOT)!r})
sys.path.insert(0, os.getcwd())
import pandas as pd
import torch
from pathlib import Path
from IPython.display import HTML, display
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from types import SimpleNamespace
from utils.data import chat_format
from utils import curves, exercises, figures
from utils import evaluate, widgets
from utils.train import profiles
from utils.practice import stand_ins
ROOT = Path.cwd()
"""

# What the notebooks have computed by the time they show the widget, as small as it can be
BEFORE_LOSS = 'before, beta = {"chosen": torch.tensor([-1.0]), "rejected": torch.tensor([-1.5])}, 0.1'
BEFORE_PAIRS = """
talks = stand_ins.preference_pairs(6, seed=1)
words = lambda messages: sum(len(message["content"].split()) for message in messages)
rows = [{"source": ["capybara", "orca"][n % 2], "row": n, "rating": 9.0 - n, "reason": None, "split": "train",
         **{f"{part}_tokens": words(pair[part]) + 10 * n for part in ("prompt", "chosen", "rejected")}}
        for n, pair in enumerate(talks)]
ledger = pd.DataFrame(rows)
ledger.loc[[4, 5], ["reason", "split"]] = ["near duplicate", None]
read = lambda source, row: talks[row]
"""
BEFORE_CURVES = 'run, others, run_folder, SEED = curves.read_run("data/runs/healthy", None, "your run"), [], None, 4'
BEFORE_MEMORY = """
base = SimpleNamespace(skeleton=widgets.known_skeleton("Llama 3 8B"))
lora = {"target_modules": ("q_proj", "v_proj"), "lora_r": 16}
sizes = {"max_length": 1024, "effective_batch": 8}
plan = SimpleNamespace(base=base, profile=profiles.PROFILES["l4"], trainer="trl", **sizes, **lora)
"""
BEFORE_TOKENS = """
base = stand_ins.small_base()
tokenizer = chat_format.prepare_tokenizer(AutoTokenizer.from_pretrained(base, trust_remote_code=False))
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
adapter = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")  # as if trained
model, held_out = get_peft_model(model, adapter), talks
pair = json.loads(json.dumps(talks[0]).replace("legs", "<b>legs</b>"))
"""


def cell_with(number: str, text: str) -> str:
    """The source of the one cell of a notebook that holds a text."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (found,) = [source for source in cells if text in source]
    return found


def cells() -> dict[str, str]:
    """The cells of the test's notebook."""
    return {
        "imports": IMPORTS,
        "before loss": BEFORE_LOSS,
        "01_loss_explorer": cell_with("01", "explore_loss("),
        "before pairs": BEFORE_PAIRS,
        "02_pair_browser": cell_with("02", "widgets.browse_pairs("),
        "before curves": BEFORE_CURVES,
        "runs": cell_with("04", "read_made_runs("),
        "04_curve_explorer": cell_with("04", "explore_curves("),
        "04_quiz": cell_with("04", "draw_quiz("),
        "04_answer": cell_with("04", "check(answer)"),
        "before memory": BEFORE_MEMORY,
        "00_memory_calculator": cell_with("00", "explore_memory("),
        "before tokens": BEFORE_TOKENS,
        "06_token_heat_map": cell_with("06", "widgets.explore_tokens("),
    }


@pytest.fixture(scope="module")
def notebook(small_base, tmp_path_factory):
    """The notebook on its page, with every cell run."""
    jupyterlab_server.need_jupyter()
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home")
    path = folder / "widgets.ipynb"
    sources = {name.replace(" ", "-"): source.strip() for name, source in cells().items()}
    jupyterlab_server.write_notebook(path, sources)
    with browser.open_browser() as chromium, jupyterlab_server.serve(folder, home) as (url, token):
        tab = chromium.new_context(viewport=WIDE).new_page()
        tab.set_default_timeout(20_000)
        page = jupyterlab_server.NotebookPage(tab, url, token, path)
        page.url = url
        page.run_all()
        wait_for_widgets(page)
        yield page


def wait_for_widgets(page, seconds: float = 90) -> None:
    """Wait until the last cell shows its widget; fail with the error of a cell, or with a screenshot."""
    begin = time.monotonic()
    while not page.output(page.names[-1]).locator(".jupyter-widgets").count():
        if page.failures().count():
            pytest.fail(page.failures().first.inner_text()[-2000:])
        if time.monotonic() - begin > seconds:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.tab.screenshot(path=SCREENSHOTS / "widgets_not_ready.png")
            pytest.fail(f"no widget within {seconds} s: see {SCREENSHOTS / 'widgets_not_ready.png'}")
        page.tab.wait_for_timeout(200)


@pytest.fixture
def page(notebook):
    """The notebook; after each test, its page has raised nothing and has asked nobody but its own server."""
    yield notebook
    assert not notebook.errors, notebook.errors
    own = (notebook.url, "data:", "blob:")
    strange = [address for address in notebook.requests if not address.startswith(own)]
    assert notebook.requests and not strange, strange


# What a reader cannot see or read: parts that end beyond the page, pictures shrunk to less than half, and text on a
# ground of nearly its own colour
BEYOND_THE_PAGE = """root => {
  const right = root.parentElement.getBoundingClientRect().right, scrolls = element =>
    element !== root && (/auto|scroll/.test(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
  return [...root.querySelectorAll('*')].filter(element => element.getClientRects().length && !scrolls(element))
    .map(element => [element.getBoundingClientRect().right - right, element.outerHTML.slice(0, 120)])
    .filter(([beyond, source]) => beyond > 2).map(([beyond, source]) => `${beyond.toFixed(1)} px: ${source}`);
}"""
SHRUNK = """root => [...root.querySelectorAll('img')].map(image => image.clientWidth / image.naturalWidth)
  .filter(share => share < 0.5)"""
HARD_TO_READ = """root => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = colour => colour.slice(0, 3).map(it => it / 255)
    .map(it => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4)
    .reduce((sum, it, place) => sum + it * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = element => { for (; element; element = element.parentElement) {
    const colour = parse(getComputedStyle(element).backgroundColor);
    if (colour.length === 3 || colour[3] > 0.5) return colour; } return [255, 255, 255]; };
  const found = [], walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || !element.getClientRects().length || element.closest(':disabled, style')) continue;
    const [a, b] = [parse(getComputedStyle(element).color), ground(element)].map(light);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(1)}`);
  }
  return found;
}"""


class Widget:
    """A widget under one cell, with its controls by their labels."""

    def __init__(self, page, name: str):
        self.page, self.tab, self.name = page, page.tab, name
        self.root = page.output(name).locator(".jupyter-widgets.widget-vbox").first
        self.root.scroll_into_view_if_needed()
        self.wait(lambda: self.words().strip())  # JupyterLab draws an output when it comes into view

    def control(self, label: str):
        found = self.root.locator(f".jupyter-widgets:has(> .widget-label:text-is('{label}'))")
        assert found.count() == 1, f"{found.count()} controls are labelled {label!r}"
        return found

    def move(self, label: str, key: str = "ArrowRight", times: int = 1, handle: int = 0) -> None:
        """Press a key on a slider's handle."""
        grip = self.control(label).locator(".ui-slider-handle" if CLASSIC else ".noUi-handle").nth(handle)
        grip.focus()
        for _ in range(times):
            grip.press(key)

    def type(self, label: str, text: str) -> None:
        """Replace what stands in a field, key by key, and press Enter."""
        field = self.control(label).locator("input")
        field.click()
        field.press("Control+a")
        field.press("Backspace")
        self.tab.keyboard.type(text)
        field.press("Enter")

    def field(self, label: str) -> str:
        return self.control(label).locator("input").input_value()

    def choose(self, label: str, *options: str) -> None:
        self.control(label).locator("select").select_option(label=list(options))

    def options(self, label: str) -> list[str]:
        return [text.replace("\xa0", " ") for text in self.control(label).locator("option").all_inner_texts()]

    def picture(self) -> str:
        return self.root.locator("img").get_attribute("src", timeout=2000)

    def words(self) -> str:
        """What the page below the controls says."""
        return self.root.locator(".widget-html").last.inner_text()

    def wait(self, condition, seconds: float = 15) -> None:
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < seconds, f"not within {seconds} s; the widget says:\n{self.words()}"
            self.tab.wait_for_timeout(50)

    def changes(self, look):
        """Remember what there is, and return a function that waits until it is another."""
        before = look()
        return lambda: self.wait(lambda: look() != before)

    def shoot(self, suffix: str = "") -> None:
        """Keep a screenshot."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = f"{self.name}_{'classic' if CLASSIC else 'lab'}{suffix}"
        self.page.output(self.name).last.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")

    def look_at(self, suffix: str = "") -> None:
        """Keep screenshots: as it is, at the width of a phone, and in the dark theme; all must be legible there."""
        self.shoot(suffix)
        assert not self.root.evaluate(HARD_TO_READ)
        try:
            self.tab.set_viewport_size(PHONE)
            self.tab.wait_for_timeout(300)
            self.shoot(f"{suffix}_phone")
            assert not self.root.evaluate(BEYOND_THE_PAGE)
            assert not self.root.evaluate(SHRUNK)
            if not CLASSIC:  # which has one theme
                self.tab.set_viewport_size(WIDE)
                self.tab.emulate_media(color_scheme="dark")
                self.tab.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
                self.shoot(f"{suffix}_dark")
                assert not self.root.evaluate(HARD_TO_READ)
        finally:
            self.tab.set_viewport_size(WIDE)
            self.tab.emulate_media(color_scheme="light")


def test_the_loss_explorer_follows_its_sliders(page):
    widget = Widget(page, "01_loss_explorer")
    for label in ("beta:", "log P of chosen:"):
        drawn = widget.changes(widget.picture)
        widget.move(label)
        drawn()
    widget.look_at()


def test_the_pair_browser_goes_through_the_rows(page):
    widget = Widget(page, "02_pair_browser")
    widget.wait(lambda: "row 0" in widget.words() and "6 rows match" in widget.root.inner_text())
    widget.look_at()
    widget.root.get_by_role("button", name="Next").click()
    widget.wait(lambda: "row 1" in widget.words())
    widget.choose("What happened:", "dropped: near duplicate (2)")
    widget.wait(lambda: "dropped: near duplicate" in widget.words())
    widget.wait(lambda: "row 4" in widget.words() and "2 rows match" in widget.root.inner_text())
    widget.choose("Source:", "orca (3)")
    widget.wait(lambda: "row 5" in widget.words())
    widget.choose("What happened:", "all")
    widget.choose("Source:", "all")
    widget.wait(lambda: "6 rows match" in widget.root.inner_text())


def test_the_pair_browser_cuts_by_length_and_says_where_nothing_is_left(page):
    widget = Widget(page, "02_pair_browser")
    widget.move("Whole length (tokens):", "End")  # the shortest that is shown, as long as the longest
    widget.wait(lambda: "1 row matches" in widget.root.inner_text())
    widget.choose("What happened:", "kept (4)")
    widget.wait(lambda: "No row matches: choose all sources" in widget.words())
    widget.shoot("_none")
    widget.move("Whole length (tokens):", "Home")
    widget.choose("What happened:", "all")
    widget.wait(lambda: "6 rows match" in widget.root.inner_text())


@pytest.mark.parametrize(("typed", "shown"), [("3", "3"), ("99", "6"), ("-7", "1"), ("e", "1")])
def test_the_pair_browser_takes_no_number_that_is_not_there(page, typed, shown):
    widget = Widget(page, "02_pair_browser")
    widget.type("Match number:", "1")
    widget.wait(lambda: widget.field("Match number:") == "1" and "row 0" in widget.words())
    widget.type("Match number:", typed)
    widget.wait(lambda: widget.field("Match number:") == shown and f"row {int(shown) - 1}" in widget.words())


def test_the_curve_explorer_redraws(page):
    widget = Widget(page, "04_curve_explorer")
    for label, handle, key in (("Smoothing (points):", 0, "ArrowRight"), ("Steps:", 1, "ArrowLeft")):
        drawn = widget.changes(widget.picture)
        widget.move(label, key, 3, handle)
        drawn()
    drawn = widget.changes(widget.picture)
    widget.choose("Runs:", "your run", "beta 5")
    drawn()
    widget.wait(lambda: "beta 5" in widget.words())  # in the table
    widget.look_at()
    drawn = widget.changes(widget.picture)
    widget.choose("Panels:", "margins")
    drawn()
    widget.choose("Runs:")
    widget.wait(lambda: "choose at least one run" in widget.words())
    widget.choose("Runs:", "healthy")
    widget.root.locator("img").wait_for()


def test_the_quiz_tells_where_to_look(page):
    assert page.output("04_quiz").locator("img").get_attribute("alt").startswith("Curves of runs without their names")
    answer = page.cell("04_answer")
    answer.get_by_text("Not tried yet").wait_for()
    page.rewrite("04_answer", 'check({"A": "last"})')
    answer.get_by_text("No run is called 'last'").first.wait_for()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.output("04_quiz").last.screenshot(path=SCREENSHOTS / f"04_quiz_{'classic' if CLASSIC else 'lab'}.png")
    names = '("healthy", "rate x 0.01", "rate x 100", "beta 0.01", "beta 5", "labels swapped", "prompt as answer")'
    page.rewrite("04_answer", f'check(dict(zip("ABCDEFG", {names})))')
    answer.get_by_text("Not yet right").first.wait_for()


def test_the_memory_calculator_says_whether_it_fits(page):
    widget = Widget(page, "00_memory_calculator")
    assert "Fits: " in widget.words() or "Does not fit: " in widget.words()
    (smallest,) = [text for text in widget.options("GPU:") if text.startswith("T4")]
    widget.choose("GPU:", smallest)
    widget.type("Pairs in a pass:", "64")
    widget.wait(lambda: "Does not fit: " in widget.words())
    widget.look_at()
    drawn = widget.changes(widget.picture)
    widget.choose("Base:", "Mistral 7B")
    drawn()


def test_the_heat_map_shows_before_after_and_change(page):
    widget = Widget(page, "06_token_heat_map")
    tokens = widget.root.locator("span[title*=before]")

    def seen(what: str = "style.backgroundColor") -> list[str]:
        return tokens.evaluate_all(f"spans => spans.map(span => span.{what})")

    chosen, prompt = (widget.root.get_by_label(label) for label in ("tokens of the chosen answer", "prompt"))
    assert "<b>legs</b>" in prompt.inner_text() and "<b>legs</b>" in chosen.inner_text()  # stays text
    for title in seen("title"):
        before, after, change = map(float, re.findall(r"[+-]?\d+\.\d\d", title))
        assert change == pytest.approx(after - before, abs=0.011)
    pictures = [seen()]
    widget.look_at()
    for view in ("before", "after"):
        drawn = widget.changes(seen)
        widget.root.get_by_role("button", name=view, exact=True).click()
        drawn()
        pictures.append(seen())
    widget.shoot("_after")
    assert len({tuple(one) for one in pictures}) == 3
    second = widget.options("Pair:")[1]
    drawn = widget.changes(lambda: seen("title"))
    widget.choose("Pair:", second)
    drawn()
    assert second.removeprefix("2: ")[:20] in prompt.inner_text()


def test_without_a_server_the_tests_skip_and_in_ci_fail(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(browser, "need_browser", lambda: "/usr/bin/chromium")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="is not installed"):
        jupyterlab_server.need_jupyter()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="is not installed"):
        jupyterlab_server.need_jupyter()
