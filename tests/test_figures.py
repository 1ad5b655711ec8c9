"""Figures and tables that a page keeps."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from notebook_output import attributes, page_of

from utils import figures

pytestmark = pytest.mark.usefixtures("no_open_figures")


def test_a_new_figure_has_the_axes_asked_for():
    figure, axes = figures.new_figure(columns=3, rows=2, width=2.0, height=1.5)
    assert axes.shape == (6,) and list(figure.get_size_inches()) == [6.0, 3.0]
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # white also on a dark page
    assert not any(axis.spines[side].get_visible() for axis in axes for side in ("top", "right"))


def test_an_image_keeps_its_alt_text_whatever_is_in_it():
    alt = 'Loss "falls" <script>alert(1)</script> & ends > 0\' > it'
    figure, axes = figures.new_figure()
    axes[0].plot([0, 1], [0, 1])
    image = figures.as_image(figure, alt)
    found = attributes(image.data)
    assert found["alt"] == alt and "<script" not in image.data
    assert found["src"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert not plt.get_fignums()


def test_show_displays_the_image_once(shell):
    figure, _ = figures.new_figure()
    figures.show(figure, "An empty figure")
    (output,) = page_of(shell)
    assert attributes(output["text/html"])["alt"] == "An empty figure"
    assert not plt.get_fignums()


def test_colours_differ():
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)
    assert len(set(figures.SEQUENCE)) == len(figures.SEQUENCE)


def test_a_table_keeps_whole_texts():
    text = "a source with many words, " * 40 + "and this end"
    with pd.option_context("display.max_colwidth", 20, "display.max_rows", 3):
        page = figures.as_table([{"setting": f"s{number}", "source": text} for number in range(50)]).to_html()
    assert page.count(text) == 50 and "..." not in page
    assert "text-align: left" in page and re.search("white-space: (normal|pre-wrap)", page)  # both wrap


def test_a_table_takes_a_frame():
    page = figures.as_table(pd.DataFrame({"metric": ["margin"], "value": [0.25]})).to_html()
    assert "margin" in page and "0.25" in page


def test_a_table_shows_tokens_as_text():
    """`<s>` would strike the rest of the page through."""
    page = figures.as_table([{"token": "<s>", "prompt": "<script>alert(1)</script>"}]).to_html()
    assert "<s>" not in page and "<script" not in page
    assert "&lt;s&gt;" in page


def test_the_figures_of_the_readme_are_drawn_as_they_are_kept(tmp_path, monkeypatch):
    import importlib.util
    from pathlib import Path

    folder = Path(__file__).parents[1] / "images"
    script = importlib.util.spec_from_file_location("draw_figures", folder / "draw_figures.py")
    drawing = importlib.util.module_from_spec(script)
    script.loader.exec_module(drawing)
    drawing.main(tmp_path)
    names = {path.name for path in folder.glob("*.svg")}
    assert {path.name for path in tmp_path.glob("*.svg")} == names
    for name in names:  # matplotlib's versions draw a little differently; words and their number stay
        words = [re.findall(r"<!-- (.*?) -->", (place / name).read_text()) for place in (folder, tmp_path)]
        assert words[0] == words[1]
