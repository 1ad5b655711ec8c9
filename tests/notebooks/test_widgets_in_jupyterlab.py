"""The widgets of the notebooks in a real Jupyter, moved with keyboard and mouse in headless Chromium.

The cells that make them are the notebooks' own, on small inputs, all in one notebook that the test writes. With
ipywidgets 8 it opens in JupyterLab, with Colab's ipywidgets 7 in the classic Notebook; see `jupyterlab_server`.
"""

import re
import time
from pathlib import Path

import nbformat
import pytest
from support import browser, jupyterlab_server

ROOT = Path(__file__).resolve().parents[2]
CLASSIC = jupyterlab_server.CLASSIC

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
from utils import curves, evaluate, exercises, figures, widgets
from utils.data import chat_format
from utils.practice import stand_ins
from utils.train import profiles
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
CELLS = {  # of the test's notebook: a source, or where a notebook has it
    "imports": IMPORTS,
    "before-loss": BEFORE_LOSS,
    "loss": ("01", "explore_loss("),
    "before-pairs": BEFORE_PAIRS,
    "pairs": ("02", "widgets.browse_pairs("),
    "before-curves": BEFORE_CURVES,
    "runs": ("04", "read_made_runs("),
    "curves": ("04", "explore_curves("),
    "quiz": ("04", "draw_quiz("),
    "answer": ("04", "check(answer)"),
    "before-memory": BEFORE_MEMORY,
    "memory": ("00", "explore_memory("),
    "before-tokens": BEFORE_TOKENS,
    "tokens": ("06", "widgets.explore_tokens("),
}
# Text on a ground of nearly its own colour
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


def source_of(cell: str | tuple[str, str]) -> str:
    """The source of a cell, given as it is or as (number of a notebook, text that one of its cells holds)."""
    if isinstance(cell, str):
        return cell.strip()
    (path,) = (ROOT / "notebooks").glob(f"{cell[0]}_*.ipynb")
    cells = [one.source for one in nbformat.read(path, as_version=4).cells if one.cell_type == "code"]
    (found,) = [source for source in cells if cell[1] in source]
    return found


@pytest.fixture(scope="module")
def page(small_base, tmp_path_factory):
    """The notebook with every cell run; its page raises nothing and asks nobody but its own server."""
    jupyterlab_server.need_jupyter()
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home")
    path = folder / "widgets.ipynb"
    jupyterlab_server.write_notebook(path, {name: source_of(cell) for name, cell in CELLS.items()})
    with browser.open_browser() as chromium, jupyterlab_server.serve(folder, home) as (url, token):
        tab = chromium.new_context(viewport={"width": 1280, "height": 1500}).new_page()
        tab.set_default_timeout(20_000)
        page = jupyterlab_server.NotebookPage(tab, url, token, path)
        page.run_all()
        begin = time.monotonic()
        while not page.output("tokens").locator(".jupyter-widgets").count():
            assert not page.failures().count(), page.failures().first.inner_text()[-2000:]
            assert time.monotonic() - begin < 90, "no widget within 90 s"
            tab.wait_for_timeout(200)
        yield page
        assert not page.errors and page.requests
        assert not [address for address in page.requests if not address.startswith((url, "data:", "blob:"))]


class Widget:
    """A widget under one cell, with its controls by their labels."""

    def __init__(self, page, name: str):
        self.tab, self.root = page.tab, page.output(name).locator(".jupyter-widgets.widget-vbox").first
        self.root.scroll_into_view_if_needed()
        self.wait(lambda: self.words().strip())  # JupyterLab draws an output when it comes into view
        for scheme in ("light",) if CLASSIC else ("dark", "light"):
            self.tab.emulate_media(color_scheme=scheme)
            if not CLASSIC:
                self.tab.locator(f"body[data-jp-theme-light={str(scheme == 'light').lower()}]").wait_for()
            assert not self.root.evaluate(HARD_TO_READ), scheme

    def control(self, label: str):
        return self.root.locator(f".jupyter-widgets:has(> .widget-label:text-is('{label}'))")

    def move(self, label: str, key: str = "ArrowRight", handle: int = 0) -> None:
        grip = self.control(label).locator(".ui-slider-handle" if CLASSIC else ".noUi-handle").nth(handle)
        grip.focus()
        grip.press(key)

    def type(self, label: str, text: str) -> None:
        field = self.control(label).locator("input")
        field.click()
        field.press("Control+a")
        field.press("Backspace")
        self.tab.keyboard.type(text)
        field.press("Enter")

    def choose(self, label: str, *options: str) -> None:
        self.control(label).locator("select").select_option(label=list(options))

    def options(self, label: str) -> list[str]:
        return [text.replace("\xa0", " ") for text in self.control(label).locator("option").all_inner_texts()]

    def picture(self) -> str:
        return self.root.locator("img").get_attribute("src", timeout=2000)

    def words(self) -> str:
        return self.root.inner_text() + self.root.locator(".widget-html").last.inner_text()

    def says(self, text: str) -> None:
        self.wait(lambda: text in self.words())

    def wait(self, condition, seconds: float = 15) -> None:
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < seconds, f"not within {seconds} s; the widget says:\n{self.words()}"
            self.tab.wait_for_timeout(50)

    def changed(self, look, act, *given) -> None:
        """Do something, and wait until what there is to see is another."""
        before = look()
        act(*given)
        self.wait(lambda: look() != before)


def test_the_loss_explorer_follows_its_sliders(page):
    widget = Widget(page, "loss")
    for label in ("beta:", "log P of chosen:"):
        widget.changed(widget.picture, widget.move, label)


def test_the_pair_browser_shows_the_rows_that_are_asked_for(page):
    widget = Widget(page, "pairs")
    widget.says("6 rows match")
    widget.changed(widget.words, widget.root.get_by_role("button", name="Next").click)
    widget.says("row 1")
    for typed, row in (("3", "row 2"), ("99", "row 5"), ("-7", "row 0")):  # only numbers that are there
        widget.type("Match number:", typed)
        widget.says(row)
    widget.choose("What happened:", "dropped: near duplicate (2)")
    widget.says("2 rows match")
    widget.says("row 4")
    widget.choose("Source:", "orca (3)")
    widget.says("row 5")
    widget.choose("Source:", "all")
    widget.choose("What happened:", "kept (4)")
    widget.move("Whole length (tokens):", "End")  # the shortest that is shown, as long as the longest
    widget.says("No row matches")


def test_the_curve_explorer_redraws(page):
    widget = Widget(page, "curves")
    widget.changed(widget.picture, widget.move, "Smoothing (points):", "PageUp")
    widget.changed(widget.picture, widget.move, "Steps:", "PageDown", 1)
    widget.changed(widget.picture, widget.choose, "Runs:", "your run", "beta 5")
    widget.says("beta 5")
    widget.changed(widget.picture, widget.choose, "Panels:", "margins")
    widget.choose("Runs:")
    widget.says("choose at least one run")


def test_the_quiz_tells_where_to_look(page):
    assert page.output("quiz").locator("img").get_attribute("alt").startswith("Curves of runs without their names")
    answer = page.cell("answer")
    answer.get_by_text("Not tried yet").wait_for()
    page.rewrite("answer", 'check({"A": "last"})')
    answer.get_by_text("No run is called 'last'").first.wait_for()
    page.rewrite("answer", 'check({letter: "healthy" for letter in "ABCDEFG"})')
    answer.get_by_text("Not yet right").first.wait_for()


def test_the_memory_calculator_says_whether_it_fits(page):
    widget = Widget(page, "memory")
    (smallest,) = [text for text in widget.options("GPU:") if text.startswith("T4")]
    widget.choose("GPU:", smallest)
    widget.type("Pairs in a pass:", "64")
    widget.says("Does not fit: ")
    widget.changed(widget.picture, widget.choose, "Base:", "Mistral 7B")


def test_the_heat_map_shows_before_after_and_change(page):
    widget = Widget(page, "tokens")
    tokens = widget.root.locator("span[title*=before]")

    def seen(what: str = "style.backgroundColor") -> list[str]:
        return tokens.evaluate_all(f"spans => spans.map(span => span.{what})")

    chosen, prompt = (widget.root.get_by_label(label) for label in ("tokens of the chosen answer", "prompt"))
    assert "<b>legs</b>" in prompt.inner_text() and "<b>legs</b>" in chosen.inner_text()  # stays text
    for title in seen("title"):
        before, after, change = map(float, re.findall(r"[+-]?\d+\.\d\d", title))
        assert change == pytest.approx(after - before, abs=0.011)
    for view in ("before", "after"):
        widget.changed(seen, widget.root.get_by_role("button", name=view, exact=True).click)
    second = widget.options("Pair:")[1]
    widget.changed(lambda: seen("title"), widget.choose, "Pair:", second)
    assert second.removeprefix("2: ")[:20] in prompt.inner_text()
