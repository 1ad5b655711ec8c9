"""The calculator: what it predicts, what it says of it, and what its controls do."""

import dataclasses
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
from support.notebook_output import picture, words

from utils.train import base as bases
from utils.train import memory, profiles
from utils.widgets import memory as calculator

pytestmark = pytest.mark.usefixtures("no_open_figures")
CARDS = profiles.PROFILES
RUN = SimpleNamespace(
    target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    lora_r=16,
    max_length=1024,
    effective_batch=8,
    trainer="trl",
    profile=CARDS["l4"],
)


@pytest.fixture(scope="module")
def llama3():
    return calculator.known_skeleton("Llama 3 8B")


@pytest.fixture(scope="module")
def tiny():
    from transformers import AutoConfig

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return bases.skeleton(AutoConfig.for_model("llama", vocab_size=512, max_position_embeddings=2048, **shape))


def total(model, **plan) -> float:
    return sum(calculator.predict_memory(model, RUN, **plan).values())


def test_the_known_bases_have_the_weights_that_their_cards_state():
    """Exact counts of the safetensors of meta-llama/Meta-Llama-3-8B, Llama-2-7b-hf and mistralai/Mistral-7B-v0.1."""
    counts = {name: calculator.known_skeleton(name).num_parameters() for name in calculator.KNOWN}
    assert counts == {"Llama 3 8B": 8_030_261_248, "Llama 2 7B": 6_738_415_616, "Mistral 7B": 7_241_732_096}


def test_it_predicts_what_the_check_of_a_run_predicts(llama3):
    for trainer in ("trl", "fused"):
        budgets = memory.budgets(llama3, RUN, calculator.CARDS, trainer)
        assert budgets == {card: calculator.predict_memory(llama3, RUN, card, trainer=trainer) for card in budgets}
    figure, alt = calculator.plot_memory(llama3, RUN)
    assert f"l4 {total(llama3, card='l4'):.1f} GB, fits 24 GB" in alt
    plt.close(figure)


def test_a_base_with_other_layers_gets_lora_on_its_own():
    from transformers import AutoConfig

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    phi = bases.skeleton(AutoConfig.for_model("phi", vocab_size=512, **shape))
    assert calculator.predict_memory(phi, RUN, "l4", 1, 256)["LoRA and its gradients"] > 0


def test_a_plan_that_fits_says_what_is_left(llama3):
    plan = {"card": "l4", "pairs": 2, "max_length": 1024, "trainer": "trl"}
    said = calculator.judge_plan(llama3, RUN, **plan)
    spare = 0.92 * 23.7 - total(llama3, **plan)
    assert said.startswith("Fits: ") and f"{spare:.1f} GB to spare" in said and "would do" not in said


@pytest.mark.parametrize(
    "card, pairs, max_length, trainer, larger",
    [
        ("l4", 8, 1024, "trl", "a100"),
        ("t4", 4, 1024, "trl", "l4"),
        ("t4", 2, 4096, "fused", "l4"),
        ("a100", 16, 2048, "trl", None),
    ],
)
def test_whatever_is_advised_makes_the_plan_fit(llama3, card, pairs, max_length, trainer, larger):
    plan = {"card": card, "pairs": pairs, "max_length": max_length, "trainer": trainer}
    said = calculator.judge_plan(llama3, RUN, **plan)
    assert said.startswith("Does not fit: ")
    found = {
        "pairs": re.search(r"(\d+) pairs? in a pass", said),
        "max_length": re.search(r"max_length = (\d+)", said),
        "trainer": re.search(r'TRAINER = "(\w+)"', said),
        "card": re.search(r"profile (\w+)", said),
    }
    advised = {name: match[1] for name, match in found.items() if match}
    assert {"pairs", "max_length"} <= set(advised) and advised.get("card") == larger
    for name, value in advised.items():
        changed = plan | {name: int(value) if value.isdigit() else value}
        assert total(llama3, **changed) <= calculator.usable(changed["card"]), name
    more = plan | {"max_length": int(advised["max_length"]) + 1}
    assert total(llama3, **more) > calculator.usable(card)
    assert 8 % int(advised["pairs"]) == 0 or int(advised["pairs"]) % 8 == 0
    fused = total(llama3, **(plan | {"trainer": "fused"})) <= calculator.usable(card)
    assert ("trainer" in advised) == (trainer == "trl" and fused)


def test_where_the_weights_alone_are_too_much_nothing_small_is_advised(llama3, monkeypatch):
    monkeypatch.setattr(calculator, "CARDS", {"t4": dataclasses.replace(CARDS["t4"], memory_gb=6.0)})
    said = calculator.judge_plan(llama3, RUN, card="t4", pairs=64, max_length=2048, trainer="trl")
    assert "would do" not in said and "The weights alone are too much" in said


def test_every_control_changes_the_picture_and_the_numbers(tiny, llama3):
    controls = calculator.explore_memory(tiny, RUN).controls
    assert (controls.base.value, controls.card.value) == ("yours, 0.1 million weights", "l4")
    assert (controls.trainer.value, controls.pairs.value, controls.max_length.value) == ("trl", 2, 1024)
    pages = [controls.page.value]
    for name, value in (
        ("base", "Llama 3 8B"),
        ("card", "t4"),
        ("pairs", 3),
        ("max_length", 1536),
        ("trainer", "fused"),
        ("base", "Mistral 7B"),
    ):
        getattr(controls, name).value = value
        pages.append(controls.page.value)
    assert len({picture(page) for page in pages}) == len({words(page) for page in pages}) == len(pages)
    assert None not in map(picture, pages) and not plt.get_fignums()

    controls.base.value, controls.card.value, controls.trainer.value = "Llama 3 8B", "l4", "trl"
    controls.pairs.value, controls.max_length.value = 4, 1024
    parts = calculator.predict_memory(llama3, RUN, "l4", 4, 1024)
    page = controls.page.value
    assert f'alt="Predicted peak memory by GPU: l4 {sum(parts.values()):.1f} GB, fits 24 GB"' in page
    assert all(f"{part} {gb:.1f} GB" in words(page) for part, gb in parts.items() if gb >= 0.1)
    controls.pairs.value = 8
    assert "Does not fit :" in words(controls.page.value)
    controls.pairs.value = 0
    assert controls.pairs.value == 1  # what leaves nothing to train on cannot be typed


def test_it_begins_on_a_card_and_tells_how_much_the_base_reads(tiny):
    cpu = SimpleNamespace(**vars(RUN) | {"profile": CARDS["cpu"], "trainer": "fast"})
    controls = calculator.explore_memory(tiny, cpu).controls
    assert (controls.card.value, controls.trainer.value, controls.pairs.value) == ("l4", "fused", 8)
    assert "alert" not in controls.page.value
    controls.max_length.value = 4096
    assert "reads 2,048 tokens" in controls.page.value
