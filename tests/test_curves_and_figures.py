"""A run's history as one frame, its curves live and whole, and figures and tables that a page keeps."""

import html.parser
import json
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from utils import curves, figures

LOG = [  # as transformers and TRL write it: evaluation before the first step, then both, then a summary
    {"eval_loss": 3.0, "eval_rewards/margins": 0.01, "eval_runtime": 0.5, "epoch": 0, "step": 0},
    {"loss": 2.5, "grad_norm": 1.5, "rewards/margins": 0.02, "rewards/accuracies": 0.5, "epoch": 0.5, "step": 1},
    {"loss": 2.0, "rewards/margins": 0.04, "rewards/accuracies": 1.0, "epoch": 1.0, "step": 2},
    {"eval_loss": 2.2, "eval_rewards/margins": 0.03, "eval_runtime": 0.5, "epoch": 1.0, "step": 2},
    {"train_runtime": 9.0, "train_loss": 2.25, "total_flos": 0.0, "train_steps_per_second": 1, "epoch": 1.0, "step": 2},
]


@pytest.fixture(autouse=True)
def no_open_figures():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def shell(monkeypatch):
    """What a notebook's front end is sent: here `display` publishes as it would in a kernel."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.interactiveshell import InteractiveShell

    fake = SimpleNamespace(display_formatter=DisplayFormatter(), display_pub=CapturingDisplayPublisher())
    monkeypatch.setattr(InteractiveShell, "initialized", classmethod(lambda cls: True))
    monkeypatch.setattr(InteractiveShell, "instance", classmethod(lambda cls, *args, **kwargs: fake))
    return fake.display_pub.outputs


def page_of(messages: list[dict]) -> list[dict]:
    """The outputs that a front end shows: an update replaces the display it names, and is lost if there is none."""
    page: list[dict] = []
    for message in messages:
        name = (message["transient"] or {}).get("display_id")
        if message["update"]:
            for output in page:
                output |= {"data": message["data"]} if output["name"] == name else {}
        else:
            page.append({"name": name, "data": message["data"]})
    return [output["data"] for output in page]


def attributes(page: str) -> dict[str, str]:
    """The attributes of the only tag of an HTML text, as a browser reads them."""
    tags = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, pairs: tags.append((tag, dict(pairs)))
    parser.feed(page)
    ((tag, found),) = tags
    assert tag == "img"
    return found


# --- the history -----------------------------------------------------------------------------------------------


def test_a_log_becomes_one_frame():
    history = curves.read_history(LOG)
    assert list(history.columns) == ["step", "epoch", "split", "metric", "value"]
    train = [(1, "loss", 2.5), (1, "grad_norm", 1.5), (1, "rewards/margins", 0.02), (1, "rewards/accuracies", 0.5)]
    train += [(2, "loss", 2.0), (2, "rewards/margins", 0.04), (2, "rewards/accuracies", 1.0)]
    held_out = [(0, "loss", 3.0), (0, "rewards/margins", 0.01), (0, "runtime", 0.5)]
    held_out += [(2, "loss", 2.2), (2, "rewards/margins", 0.03), (2, "runtime", 0.5)]
    for split, expected in (("train", train), ("eval", held_out)):
        part = history[history.split == split]
        assert sorted(zip(part.step, part.metric, part.value, strict=True)) == sorted(expected)
    assert set(history.split) == {"train", "eval"}
    assert dict(zip(history.step, history.epoch, strict=True)) == {0: 0, 1: 0.5, 2: 1.0}


def test_the_summary_at_the_end_is_no_step():
    metrics = set(curves.read_history(LOG).metric)
    assert not {"train_loss", "train_runtime", "total_flos", "flos", "step", "epoch"} & metrics


def test_a_folder_reads_like_its_log(tmp_path):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": LOG}))
    for folder in (tmp_path, str(tmp_path)):
        pd.testing.assert_frame_equal(curves.read_history(folder), curves.read_history(LOG))


def test_values_that_are_not_numbers_are_left_out():
    history = curves.read_history([{"loss": 1.0, "note": "text", "table": {"a": 1}, "step": 1}])
    assert list(history.metric) == ["loss"] and history.epoch.isna().all()


def test_a_loss_that_is_not_finite_stays_in_sight():
    history = curves.read_history([{"loss": float("nan"), "step": 1}, {"loss": float("inf"), "step": 2}])
    assert history.value.isna().tolist() == [True, False] and history.value[1] == float("inf")


def test_nothing_logged_is_an_empty_frame():
    history = curves.read_history([])
    assert history.empty and list(history.columns) == ["step", "epoch", "split", "metric", "value"]


# --- the curves ------------------------------------------------------------------------------------------------


def drawn(axis) -> dict[str, list[tuple]]:
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axis.lines}


def test_the_curves_are_the_frames_values():
    history = curves.read_history(LOG)
    figure = curves.plot_history(history, ("loss", "rewards/margins", "grad_norm"), title="A run")
    loss, margins, gradient = figure.axes
    assert drawn(loss) == {"train": [(1, 2.5), (2, 2.0)], "eval": [(0, 3.0), (2, 2.2)]}
    assert drawn(margins) == {"train": [(1, 0.02), (2, 0.04)], "eval": [(0, 0.01), (2, 0.03)]}
    assert drawn(gradient) == {"train": [(1, 1.5)], "eval": []}
    assert [axis.get_title() for axis in figure.axes] == ["Loss (nats)", "Margin (beta x nats)", "grad_norm"]
    assert figure.get_suptitle() == "A run"
    assert {text.get_text() for text in loss.get_legend().get_texts()} == {"train", "eval"}


def test_the_default_is_one_panel_for_each_titled_metric():
    figure = curves.plot_history(curves.read_history(LOG))
    assert [axis.get_title() for axis in figure.axes] == list(curves.TITLES.values())
    assert all(axis.get_xlabel() == "step" for axis in figure.axes)


def test_evaluations_are_points_that_a_single_one_shows():
    figure = curves.plot_history(curves.read_history(LOG), ("loss",))
    styles = {line.get_label(): (line.get_marker(), line.get_color()) for line in figure.axes[0].lines}
    assert styles["eval"][0] not in ("", "None", None)
    assert styles["train"][1] != styles["eval"][1]


def test_live_curves_redraw_one_display_in_place(shell):
    live, state = curves.live_curves(seconds=0), SimpleNamespace(log_history=[], global_step=0, max_steps=2)
    pages = []
    for entry in LOG[:-1]:
        state.log_history.append(entry)
        state.global_step = entry["step"]
        live.on_log(None, state, None)
        pages.append(page_of(shell))
    live.on_train_end(None, state, None)
    pages.append(page_of(shell))
    images = []
    for page in pages:
        assert len(page) == 1
        images.append(attributes(page[0]["text/html"]))
    assert len({image["src"] for image in images[:-1]}) == len(LOG) - 1  # every entry changes the picture
    assert "step 0 of 2" in images[0]["alt"] and "step 2 of 2" in images[-1]["alt"]
    assert not plt.get_fignums()


def test_live_curves_do_not_draw_at_every_step(shell, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(curves, "time", SimpleNamespace(monotonic=lambda: now))
    live, state = curves.live_curves(seconds=10), SimpleNamespace(log_history=LOG[:3], global_step=1, max_steps=99)
    counts = []
    for seconds in (0, 4, 5, 2, 1):
        now += seconds
        live.on_log(None, state, None)
        counts.append(len(shell))
    live.on_train_end(None, state, None)
    first = counts[0]
    assert counts == [first, first, first, first + 1, first + 1]  # at 0 and at 11 seconds
    assert len(shell) == first + 2  # and at the end


@pytest.fixture(scope="module")
def real_run(small_base, tokenizer, tmp_path_factory):
    """The state of TRL's real trainer after two steps."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from utils.stand_ins import preference_pairs

    folder = tmp_path_factory.mktemp("run")
    pairs = Dataset.from_list(preference_pairs(4, seed=5))
    trainer = ORPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32),
        args=ORPOConfig(
            output_dir=str(folder / "checkpoints"),
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=2,
            per_device_eval_batch_size=4,
            num_train_epochs=1,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            eval_on_start=True,
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    return folder, trainer.state


def test_the_real_trainer_logs_the_metrics_that_are_drawn(real_run):
    folder, state = real_run
    history = curves.read_history(folder)
    order = ["step", "split", "metric"]  # the file sorts the names
    live = curves.read_history(state.log_history)
    pd.testing.assert_frame_equal(
        *(frame.sort_values(order, ignore_index=True) for frame in (history, live)), check_dtype=False
    )
    logps = {"logps/chosen", "logps/rejected", "log_odds_chosen", "log_odds_ratio"}
    for split, steps in (("train", [1, 2]), ("eval", [0, 1, 2])):
        part = history[history.split == split]
        assert set(curves.TITLES) | logps <= set(part.metric)
        for metric in curves.TITLES:
            assert part[part.metric == metric].step.tolist() == steps
    last = history[history.step == 2].pivot_table(index="split", columns="metric", values="value")
    gap = last["logps/chosen"] - last["logps/rejected"]
    assert last["rewards/margins"].tolist() == pytest.approx((0.1 * gap).tolist(), abs=1e-6)


# --- figures ---------------------------------------------------------------------------------------------------


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
