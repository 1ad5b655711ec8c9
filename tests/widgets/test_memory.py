"""The calculator: what it predicts, what it says of it, and what it makes of nonsense."""

import dataclasses
import re

import matplotlib.pyplot as plt
import pytest
from support.notebook_output import picture, words

from utils import preflight
from utils.train import base as bases
from utils.train import memory, profiles, recipes
from utils.widgets import memory as memory_calculator

pytestmark = pytest.mark.usefixtures("no_open_figures")
RECIPE, _ = recipes.resolve("course-llama3")
CARDS = profiles.PROFILES


@pytest.fixture(scope="module")
def llama3():
    return memory_calculator.known_skeleton("Llama 3 8B")


@pytest.fixture(scope="module")
def tiny():
    from transformers import AutoConfig

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return bases.skeleton(AutoConfig.for_model("llama", vocab_size=512, max_position_embeddings=2048, **shape))


@pytest.fixture
def controls(tiny):
    return memory_calculator.calculate(tiny, RECIPE, "l4").controls


def total(*plan) -> float:
    return sum(memory_calculator.predict(*plan).values())


# --- bases and numbers -----------------------------------------------------------------------------------------------


def test_the_known_bases_have_the_weights_that_their_cards_state():
    """Exact counts of the safetensors of meta-llama/Meta-Llama-3-8B, Llama-2-7b-hf and mistralai/Mistral-7B-v0.1."""
    counts = {name: memory_calculator.known_skeleton(name).num_parameters() for name in memory_calculator.KNOWN}
    assert counts == {"Llama 3 8B": 8_030_261_248, "Llama 2 7B": 6_738_415_616, "Mistral 7B": 7_241_732_096}


@pytest.mark.parametrize("trainer", ["trl", "fused"])
@pytest.mark.parametrize("name", ["t4", "l4", "a100", "h100"])
def test_it_predicts_what_the_budgets_of_notebook_00_show(llama3, name, trainer):
    pairs = CARDS[name].pairs_in_a_pass(trainer, RECIPE.effective_batch)
    parts = memory_calculator.predict(llama3, RECIPE, CARDS[name], pairs, RECIPE.max_length, trainer)
    assert parts == memory.budgets(llama3, RECIPE, {name: CARDS[name]}, trainer)[name]


def test_a_base_with_other_layers_gets_lora_on_its_own():
    from transformers import AutoConfig

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    phi = bases.skeleton(AutoConfig.for_model("phi", vocab_size=512, **shape))
    assert memory_calculator.predict(phi, RECIPE, CARDS["l4"], 1, 256, "trl")["LoRA and its gradients"] > 0


# --- the verdict -----------------------------------------------------------------------------------------------------


def test_a_plan_that_fits_says_what_is_left(llama3):
    plan = llama3, RECIPE, CARDS["l4"], 2, 1024, "trl"
    said = memory_calculator.verdict(*plan)
    spare = preflight.ROOM["cuda"] * 23.7 - total(*plan)
    assert said.startswith("Fits: ") and f"{spare:.1f} GB to spare" in said and "would do" not in said


@pytest.mark.parametrize(
    "card, pairs, max_length, trainer",
    [("l4", 8, 1024, "trl"), ("t4", 4, 1024, "trl"), ("t4", 2, 4096, "fused"), ("a100", 16, 2048, "trl")],
)
def test_whatever_is_advised_makes_the_plan_fit(llama3, card, pairs, max_length, trainer):
    plan = {"card": CARDS[card], "pairs": pairs, "max_length": max_length, "trainer": trainer}
    said = memory_calculator.verdict(llama3, RECIPE, **plan)
    assert said.startswith("Does not fit: ")
    found = {
        "pairs": re.search(r"(\d+) pairs? in a pass", said),
        "max_length": re.search(r"max_length = (\d+)", said),
        "trainer": re.search(r'TRAINER = "(\w+)"', said),
        "card": re.search(r"profile (\w+)", said),
    }
    advised = {name: match[1] for name, match in found.items() if match}
    assert {"pairs", "max_length"} <= set(advised)
    for name, value in advised.items():
        change = {"card": CARDS.get(value), "trainer": value}.get(name) or int(value)
        changed = plan | {name: change}
        assert total(llama3, RECIPE, *changed.values()) <= memory_calculator.usable(changed["card"]), name
    more = int(advised["max_length"]) + 1
    assert total(llama3, RECIPE, *(plan | {"max_length": more}).values()) > memory_calculator.usable(plan["card"])
    count = int(advised["pairs"])
    assert RECIPE.effective_batch % count == 0 or count % RECIPE.effective_batch == 0
    assert ("trainer" in advised) == (
        trainer == "trl"
        and total(llama3, RECIPE, *(plan | {"trainer": "fused"}).values()) <= memory_calculator.usable(plan["card"])
    )


def test_where_the_weights_alone_are_too_much_nothing_small_is_advised(llama3):
    card = dataclasses.replace(CARDS["t4"], memory_gb=6.0)
    said = memory_calculator.verdict(llama3, RECIPE, card, 1, 1024, "trl")
    assert "profile t4" in said and "max_length" not in said and "in a pass" not in said  # a whole T4 would do
    said = memory_calculator.verdict(llama3, RECIPE, card, 64, 2048, "trl")
    assert "would do" not in said and "The weights alone are too much" in said


def test_a_larger_card_is_the_next_that_is_enough(llama3):
    said = memory_calculator.verdict(llama3, RECIPE, CARDS["t4"], 4, 1024, "trl")
    assert "profile l4" in said and "a100" not in said


# --- the widget ------------------------------------------------------------------------------------------------------


def test_it_begins_with_the_learners_base_card_and_recipe(tiny):
    controls = memory_calculator.calculate(tiny, RECIPE, "a100", "fast").controls
    assert (controls.base.value, controls.card.value, controls.trainer.value) == ("yours", "a100", "fused")
    assert (controls.pairs.value, controls.max_length.value) == ("8", "1024")
    assert picture(controls.page.value) and not plt.get_fignums()
    assert words(controls.page.value).startswith("Fits : ")
    assert "0.1 million weights" in controls.base.options[0][0]
    assert memory_calculator.calculate(tiny, RECIPE, "cpu").controls.card.value == "l4"


def test_every_choice_changes_the_picture_and_the_numbers(controls):
    pages = [controls.page.value]
    for name, value in (
        ("base", "Llama 3 8B"),
        ("card", "t4"),
        ("pairs", "3"),
        ("max_length", "1,536"),
        ("trainer", "fused"),
        ("base", "Mistral 7B"),
    ):
        getattr(controls, name).value = value
        pages.append(controls.page.value)
    assert len({picture(page) for page in pages}) == len({words(page) for page in pages}) == len(pages)
    assert None not in map(picture, pages) and not plt.get_fignums()


def test_the_page_shows_the_prediction_and_its_parts(controls, llama3):
    controls.base.value, controls.pairs.value = "Llama 3 8B", "4"
    parts = memory_calculator.predict(llama3, RECIPE, CARDS["l4"], 4, 1024, "trl")
    page = controls.page.value
    assert f'alt="Predicted peak memory by GPU: l4 {sum(parts.values()):.1f} GB, fits 24 GB"' in page
    for part, gb in parts.items():
        assert f"{part} {memory_calculator.size(gb)}" in words(page)
    controls.pairs.value = "8"
    assert "does not fit 24 GB" in controls.page.value and words(controls.page.value).startswith("Does not fit : ")


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("pairs", "0", "leaves nothing to train on"),
        ("pairs", "-3", "leaves nothing to train on"),
        ("pairs", "", "Pairs in a pass is empty"),
        ("pairs", "two", "'two', which is no whole number"),
        ("pairs", "1.5", "'1.5', which is no whole number"),
        ("pairs", "9" * 30, "far more than any of these cards holds"),
        ("max_length", str(10**9), "max_length is 1000000000 tokens, far more"),
        ("max_length", "0", "leaves nothing to train on"),
        ("max_length", "<b>1</b>", "'<b>1</b>', which is no whole number"),
        ("max_length", "4096", "your base reads 2,048"),
        ("max_length", "9" * 5000, "no whole number"),
    ],
)
def test_nonsense_is_told_in_place_and_can_be_mended(controls, name, text, told):
    before, field = controls.page.value, getattr(controls, name)
    right = field.value
    field.value = text
    page = controls.page.value
    assert told in words(page) and 'role="alert"' in page and "<img" not in page and len(page) < 500
    assert "type " in words(page)
    field.value = right
    assert words(controls.page.value) == words(before)


def test_another_base_has_a_window_of_its_own(controls):
    controls.max_length.value = "4096"
    assert picture(controls.page.value) is None
    controls.base.value = "Llama 3 8B"
    assert picture(controls.page.value)


def test_the_longest_plan_that_may_be_typed_is_answered(controls):
    controls.base.value = "Llama 2 7B"
    controls.pairs.value, controls.max_length.value = (str(most) for most in memory_calculator.MOST.values())
    assert words(controls.page.value).startswith("Does not fit : ")


def test_every_control_has_a_label_and_fits_a_narrow_page(tiny):
    panel = memory_calculator.calculate(tiny, RECIPE)
    chosen = [it for name, it in vars(panel.controls).items() if name != "page"]
    assert [it.description for it in chosen] == [
        "Base:",
        "GPU:",
        "Trainer:",
        "Pairs in a pass:",
        "max_length (tokens):",
    ]
    assert all(it.style.description_width == "initial" and it.layout.max_width == "100%" for it in chosen)
    assert panel.controls.page.layout.display == "block"  # so that what is wide scrolls, and the page does not
    assert [row.layout.flex_flow for row in panel.children[:2]] == ["row wrap"] * 2
    shown = [panel.children[-1], *(child for row in panel.children[:2] for child in row.children)]
    assert all(any(control is one for one in shown) for control in vars(panel.controls).values())
