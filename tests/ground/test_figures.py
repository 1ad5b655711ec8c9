"""Figures and tables that a page keeps, and the pictures in images/."""

import importlib
import itertools
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
# How eyes without one kind of cone see linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
SEEN = {
    "all colours": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "no green": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "no blue": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}

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


def closest(colours, seen: str) -> float:
    """The least distance of two colours in CIELAB, as eyes of one kind see them."""
    import numpy as np
    from matplotlib.colors import to_rgb

    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SEEN[seen]).T, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(to_xyz).T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    return min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(lab, 2))


def test_colours_differ_for_all_eyes():
    """15 is about six times what the eye just tells apart side by side; a middle grey would come to 11."""
    for colours in (figures.SEQUENCE, list(figures.COLOURS.values())):
        assert min(closest(colours, seen) for seen in SEEN) > 15
        assert closest([*colours[:-1], "#777777"], "no green") < 12


def test_no_two_series_look_alike():
    lines, fills = ([style(place) for place in range(28)] for style in (figures.line_style, figures.fill_style))
    assert len({tuple(style.values()) for style in lines}) == 28
    assert len({(style["facecolor"], style["hatch"]) for style in fills}) == 28
    assert len({style["marker"] for style in lines[:7]}) == 7  # without colours, too
    for style in (figures.line_style, figures.fill_style):
        with pytest.raises(ValueError, match="Series 29 .* only 28 look different"):
            style(28)


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
