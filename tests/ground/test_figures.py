"""Figures and tables that a page keeps, and the pictures in images/."""

import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from support.notebook_output import attributes, page_of

from utils import environment, figures
from utils.practice import course as runner
from utils.practice import small_world

ROOT = Path(__file__).parents[2]
IMAGES = sorted(path.name for path in (ROOT / "images").iterdir() if path.suffix not in (".py", ""))
# How eyes without one kind of cone see linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
SEEN = {
    "all colours": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "no green": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "no blue": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}

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


def test_where_only_text_is_shown_the_alt_text_is(shell):
    figures.show(figures.new_figure()[0], "An empty figure")
    (output,) = page_of(shell)
    assert output["text/plain"] == "Figure: An empty figure"


def test_an_exported_page_keeps_the_alt_text(shell):
    nbconvert, nbformat = pytest.importorskip("nbconvert"), pytest.importorskip("nbformat")
    alt = 'Loss "falls" & ends > 0'
    figures.show(figures.new_figure()[0], alt)
    output = nbformat.v4.new_output("display_data", data=page_of(shell)[0])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    (tag,) = re.findall("<img[^>]*base64[^>]*>", page)
    assert attributes(tag)["alt"] == alt
    text, _ = nbconvert.MarkdownExporter().from_notebook_node(notebook)
    assert "alt=" in text


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


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("colours", [figures.SEQUENCE, list(figures.COLOURS.values())], ids=["sequence", "names"])
def test_colours_differ_for_all_eyes(colours, seen):
    """15 is about six times what the eye just tells apart side by side; a middle grey would come to 11."""
    assert closest(colours, seen) > 15
    assert closest([*colours[:-1], "#777777"], "no green") < 12


def test_no_two_series_look_alike():
    lines, fills = ([style(place) for place in range(28)] for style in (figures.line_style, figures.fill_style))
    assert len({tuple(style.values()) for style in lines}) == 28
    assert len({(style["facecolor"], style["hatch"]) for style in fills}) == 28
    assert len({style["marker"] for style in lines[:7]}) == 7  # without colours, too
    for style in (figures.line_style, figures.fill_style):
        with pytest.raises(ValueError, match="Series 29 .* only 28 look different"):
            style(28)


def test_a_kept_figure_is_a_white_card_that_needs_no_font(tmp_path):
    for name in ("one", "two"):
        figure, (axis,) = figures.new_figure()
        axis.set_title("A title")
        figures.save_svg(figure, tmp_path / f"{name}.svg", "Losses < 1 & falling")
    pages = [(tmp_path / f"{name}.svg").read_text() for name in ("one", "two")]
    assert pages[0] == pages[1]  # the same figure gives the same file
    assert "<title>Losses &lt; 1 &amp; falling</title>" in pages[0]
    assert "<text" not in pages[0] and "<!-- A title -->" in pages[0]
    assert re.search("fill: ?#ffffff; stroke: ?#d0d7de", pages[0]) and not plt.get_fignums()


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


def load(name: str):
    """Import a script of images/."""
    folder = str(ROOT / "images")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory) -> Path:
    """All pictures, drawn anew."""
    folder = tmp_path_factory.mktemp("images")
    load("draw_figures").main(folder)
    return folder


def test_every_picture_has_a_function_that_draws_it(redrawn):
    drawn = {f"{name}.svg" for name in load("draw_figures").figures_by_name()}
    assert drawn == set(IMAGES) == {path.name for path in redrawn.iterdir()}


def test_a_name_that_is_no_picture_is_told(tmp_path):
    with pytest.raises(ValueError, match="no figure 08_stage. There are: 00_memory_budget, "):
        load("draw_figures").main(tmp_path, ["08_stages", "08_stage"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_is_drawn_as_it_is_kept(name, redrawn):
    """Versions of matplotlib draw a little differently; words and their number stay."""
    kept, new = ((folder / name).read_text() for folder in (ROOT / "images", redrawn))
    words = [re.findall(r"<!-- (.*?) -->", text) for text in (kept, new)]
    assert words[0] == words[1] and words[0], f"run `python images/draw_figures.py {name[:-4]}`"
    titles = [re.search("<title>(.*?)</title>", text, flags=re.DOTALL)[1] for text in (kept, new)]
    assert titles[0] == titles[1] and len(titles[0]) > 40


@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_is_small_and_shown_with_words(name):
    assert (ROOT / "images" / name).stat().st_size < 250_000
    cells = [cell for path in ROOT.glob("notebooks/*.ipynb") for cell in json.loads(path.read_text())["cells"]]
    pages = [(ROOT / "README.md").read_text(), *("".join(cell["source"]) for cell in cells)]
    alts = [alt for page in pages for alt in re.findall(rf"!\[([^]]*)\]\((?:\.\./)?images/{re.escape(name)}\)", page)]
    assert alts, f"neither README.md nor a notebook shows {name}"
    assert all(len(alt) > 40 for alt in alts), f"what does {name} show? {alts}"


def test_the_pipeline_is_what_the_course_runs():
    pipeline = load("draw_pipeline")
    assert set(pipeline.NOTEBOOKS) == set(pipeline.titles()), "a notebook is missing in NOTEBOOKS, or gone"
    makers = {makes: number for number, (_, _, (makes, _)) in pipeline.NOTEBOOKS.items() if makes}
    assert runner.ARTEFACTS.items() <= {number: makes for makes, number in makers.items()}.items()
    needs = {number: [makers[folder] for folder in takes] for number, (_, takes, _) in pipeline.NOTEBOOKS.items()}
    for number, makes in needs.items():
        wanted = set(runner.NEEDS.get(number, []))
        assert wanted <= set(makes), f"{number} needs {wanted}, and the picture has {makes}"
        reached = wanted | {far for near in wanted for far in runner.NEEDS.get(near, [])}
        assert set(makes) <= reached, f"{number} takes from {makes}, and `make course` runs {reached} before it"
    assert makers.keys() == pipeline.PLACES.keys()


def test_the_stages_are_those_that_were_measured():
    stages = load("draw_stages")
    methods = json.loads((ROOT / "data" / "comparisons" / "stand_in.json").read_text())["methods"]
    for name, drawn in stages.STAGES.items():
        looked_at = any(how == stages.LOOKS for _, _, rows in drawn for _, how in rows)
        assert len(drawn) == len(methods[name]["steps"])
        assert looked_at == bool(methods[name]["reference_tokens"]) == any("reference" in held for _, held, _ in drawn)


def test_facts_are_those_of_the_small_world():
    drawing = load("draw_before_and_after")
    assert list(drawing.FACTS) == environment.course_prompts()
    known = {question: answer for kind in small_world._facts() for question, answer, _ in kind}
    assert drawing.FACTS == {prompt: known[prompt] for prompt in drawing.FACTS}
    assert drawing.states_fact("What is the opposite of hot?", "The opposite of hot is cold. Ask me")
    assert not drawing.states_fact("What is the opposite of hot?", "The opposite of cold is hot.")


def test_the_answers_that_are_kept_have_the_form_of_a_run(course):
    """What is kept is one run's; another machine's numbers differ a little, so only what must be is compared."""
    path = ROOT / "data" / "answers"
    script = importlib.util.spec_from_file_location("collect_answers", path / "collect_answers.py")
    collecting = importlib.util.module_from_spec(script)
    script.loader.exec_module(collecting)
    kept, new = json.loads((path / "stand_in.json").read_text()), collecting.collect(course[1])
    assert kept.keys() == new.keys() and kept["pairs"] == new["pairs"]
    for found in (kept, new):
        assert [row["prompt"] for row in found["answers"]] == environment.course_prompts()
        assert found["ended"]["base"] < found["ended"]["tuned"] <= len(found["answers"])
        first, last = found["held_out"][0], found["held_out"][-1]
        assert first["nll_loss"] > last["nll_loss"] and first["accuracy"] < last["accuracy"]
