"""Figures and tables that a page keeps, and the pictures in images/."""

import importlib
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from support.notebook_output import attributes, page_of

from utils import figures
from utils.practice import course as runner

ROOT = Path(__file__).parents[2]
IMAGES = sorted(path.name for path in (ROOT / "images").glob("*.svg"))
plt.switch_backend("agg")  # before a test stands in for the shell, which the first figure asks for
pytestmark = pytest.mark.usefixtures("no_open_figures")


def test_a_figure_is_shown_once_with_its_alt_text_whatever_is_in_it(shell):
    alt = 'Loss "falls" <script>alert(1)</script> & ends > 0\' > it'
    figure, axes = figures.new_figure(columns=3, rows=2, width=2.0, height=1.5)
    assert axes.shape == (6,) and list(figure.get_size_inches()) == [6.0, 3.0]
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # white also on a dark page
    figures.show(figure, alt)
    (output,) = page_of(shell)
    found = attributes(output["text/html"])
    assert found["alt"] == alt and "<script" not in output["text/html"]
    assert found["src"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert output["text/plain"] == f"Figure: {alt}" and not plt.get_fignums()


def test_no_two_series_look_alike():
    lines, fills = ([style(place) for place in range(28)] for style in (figures.line_style, figures.fill_style))
    assert len({tuple(style.values()) for style in lines}) == 28
    assert len({(style["facecolor"], style["hatch"]) for style in fills}) == 28
    assert len({style["marker"] for style in lines[:7]}) == 7  # without colours, too


def test_a_table_keeps_whole_texts_and_shows_tokens_as_text():
    """`<s>` would strike the rest of the page through."""
    text = "a source with many words, " * 40 + "and this end"
    rows = [{"setting": "<s>", "source": text}, {"setting": "<script>alert(1)</script>", "source": text}]
    with pd.option_context("display.max_colwidth", 20, "display.max_rows", 1):
        pages = [figures.as_table(rows).to_html(), figures.as_table(pd.DataFrame(rows)).to_html()]
    for page in pages:
        assert page.count(text) == 2 and "..." not in page
        assert "<s>" not in page and "<script" not in page and "&lt;s&gt;" in page


def load(name: str):
    """Import a script of images/."""
    folder = str(ROOT / "images")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


@pytest.mark.timeout(300)
def test_every_picture_is_drawn_as_it_is_kept(tmp_path):
    """Versions of matplotlib draw a little differently; words and their number stay."""
    drawing = load("draw_figures")
    with pytest.raises(ValueError, match="no figure 08_stage. There are: "):
        drawing.main(tmp_path, ["08_stages", "08_stage"])
    drawing.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(IMAGES)
    for name in IMAGES:
        kept, new = ((folder / name).read_text() for folder in (ROOT / "images", tmp_path))
        words = [re.findall(r"<!-- (.*?) -->", text) for text in (kept, new)]
        assert words[0] == words[1] and words[0], f"run `python images/draw_figures.py {name[:-4]}`"
        titles = [re.search("<title>(.*?)</title>", text, flags=re.DOTALL)[1] for text in (kept, new)]
        assert titles[0] == titles[1] and len(titles[0]) > 40
        assert "<text" not in new and len(kept) < 250_000  # letters need no font


def test_pictures_are_shown_with_words():
    shown, picture = {}, re.compile(r"!\[([^]]*)\]\((?:[./]*images/)?([^)/]+svg)\)")
    for folder in (".", "benchmarks", "images"):
        shown |= {name: alt for alt, name in picture.findall((ROOT / folder / "README.md").read_text())}
    assert shown and set(shown) == set(IMAGES)
    assert min(len(alt) for alt in shown.values()) > 40, shown


def test_the_pipeline_is_what_the_course_runs():
    pipeline = load("draw_pipeline")
    assert set(pipeline.NOTEBOOKS) == set(pipeline.titles()), "a notebook is missing in NOTEBOOKS, or gone"
    makers = {makes: number for number, (_, _, (makes, _)) in pipeline.NOTEBOOKS.items() if makes}
    assert runner.ARTEFACTS.items() <= {number: makes for makes, number in makers.items()}.items()
    for number, (_, takes, _) in pipeline.NOTEBOOKS.items():
        assert set(runner.NEEDS.get(number, [])) <= {makers[folder] for folder in takes}
