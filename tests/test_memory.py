"""The prediction of memory, against real models' weights and the published run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PhiConfig, Qwen2Config

from utils import bases, memory
from utils.profiles import PROFILES
from utils.recipes import ATTENTION, MLP, RECIPES

LLAMA_3_8B = bases.skeleton(LlamaConfig(**memory.LLAMA_3_8B))
SEVEN = ATTENTION + MLP
SMALL = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    "every head has its keys": LlamaConfig(**SMALL, intermediate_size=160),
    "tied head": LlamaConfig(**SMALL, intermediate_size=160, num_key_value_heads=2, tie_word_embeddings=True),
    "heads of their own size": LlamaConfig(**SMALL, intermediate_size=160, num_key_value_heads=1, head_dim=32),
    "Phi, a head with a bias": PhiConfig(**SMALL, intermediate_size=160),
    "Qwen2, tied, biases": Qwen2Config(**SMALL, intermediate_size=160, tie_word_embeddings=True),
    "GPT-2, transposed layers": GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=4),
}


def gb(**changes) -> dict[str, float]:
    """Predict for Llama 3 8B as the article trained it, with changes."""
    given = {"micro_batch": 2, "max_length": 1024, "dtype": "bfloat16"} | changes
    return memory.predict(LLAMA_3_8B, SEVEN, **given)


# --- weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_every_weight_is_counted_once_and_lora_is_what_peft_trains(config):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_config(config)
    targets = bases.linear_layers(model)
    counted = memory.count_weights(bases.skeleton(config), targets, lora_r=4)
    assert sum(counted[part] for part in ("layers", "embeddings", "head", "other")) == model.num_parameters()
    assert counted["embeddings"] == model.get_input_embeddings().weight.numel()
    assert counted["head"] == (0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size)
    assert 0 < counted["other"] < 0.05 * counted["layers"]
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    assert counted["lora"] == model.get_nb_trainable_parameters()[0]


def test_the_published_size_of_llama_3_8b():
    counted = memory.count_weights(LLAMA_3_8B, SEVEN)
    assert sum(counted[part] for part in ("layers", "embeddings", "head", "other")) == 8_030_261_248
    assert counted["layers"] == 6_979_321_856 and counted["lora"] == 41_943_040
    assert counted["lora"] > memory.count_weights(LLAMA_3_8B, ATTENTION)["lora"] > 0


# --- the prediction --------------------------------------------------------------------------------------------


def test_the_articles_run_fits_an_l4_as_published():
    """The article measured about 20 GB on an L4; the GPU has 23.7."""
    l4, recipe = PROFILES["l4"], RECIPES["article-llama3"]
    parts = memory.predict(LLAMA_3_8B, SEVEN, l4.micro_batch, recipe.max_length, l4.dtype, l4.recompute, recipe.lora_r)
    assert 15 < sum(parts.values()) < 23


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.gpus])
def test_every_gpus_profile_fits_its_gpu(name):
    parts = memory.budgets(LLAMA_3_8B, RECIPES["course-llama3"], PROFILES)[name]
    assert sum(parts.values()) < 0.92 * PROFILES[name].memory_gb


@pytest.mark.parametrize("dtype", memory.DTYPE_BYTES)
@pytest.mark.parametrize("recompute", [True, False])
def test_every_part_takes_memory(dtype, recompute):
    assert all(size > 0 for size in gb(dtype=dtype, recompute=recompute).values())


@pytest.mark.parametrize("change", [{"micro_batch": 4}, {"max_length": 2048}])
def test_twice_the_tokens_take_twice_the_activations_and_logits(change):
    before, after = gb(), gb(**change)
    grown = {part: after[part] / before[part] for part in before}
    assert grown == pytest.approx({part: 2.0 if part in ("activations", "logits") else 1.0 for part in before})


def test_more_of_anything_never_takes_less():
    totals = [sum(gb(micro_batch=pairs, max_length=64 * pairs).values()) for pairs in range(1, 20)]
    assert totals == sorted(totals) and len(set(totals)) == len(totals)
    assert sum(gb(lora_r=64).values()) > sum(gb().values())
    assert gb(dtype="float32")["embeddings"] == 2 * gb()["embeddings"]
    assert gb(dtype="float16") == gb()


def test_recomputing_saves_activations_alone():
    kept, recomputed = gb(recompute=False), gb(recompute=True)
    assert recomputed["activations"] < kept["activations"] / 5
    assert {part for part in kept if kept[part] != recomputed[part]} == {"activations"}


def test_the_parts_that_can_be_counted_by_hand():
    parts = gb()
    assert parts["head"] == pytest.approx(128256 * 4096 * 2 / 1e9)
    assert parts["logits"] == pytest.approx(2 * 2 * 1024 * 128256 * memory.LOGITS_BYTES / 1e9)
    assert parts["LoRA and its gradients"] == pytest.approx(41_943_040 * (4 + 4) / 1e9)
    assert 3.5 < parts["weights, 4 bits"] < 3.7  # 6.98 billion weights at 4.127 bits, as in QLoRA's paper


# --- budgets ---------------------------------------------------------------------------------------------------


def test_a_budget_for_every_profile_with_its_own_pairs():
    recipe = RECIPES["course-llama3"]
    budgets = memory.budgets(LLAMA_3_8B, recipe, PROFILES)
    assert list(budgets) == list(PROFILES)
    for name, profile in PROFILES.items():
        assert budgets[name] == gb(micro_batch=profile.micro_batch, dtype=profile.dtype, recompute=profile.recompute)
    capped = memory.budgets(LLAMA_3_8B, replace(recipe, effective_batch=2, max_length=512, lora_r=8), PROFILES)
    assert capped["h100"] == gb(micro_batch=2, max_length=512, lora_r=8)


@pytest.fixture
def close_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_the_figure_shows_every_budget(close_figures):
    budgets = memory.budgets(LLAMA_3_8B, RECIPES["course-llama3"], PROFILES)
    figure, alt = memory.plot_budgets(budgets, PROFILES)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(PROFILES)
    assert len(axis.containers) == len(budgets["l4"])
    for row, budget in enumerate(budgets.values()):  # the bars stand end to end
        bars = [container.patches[row] for container in axis.containers]
        assert [bar.get_width() for bar in bars] == pytest.approx(list(budget.values()))
        ends = np.cumsum([0, *budget.values()])[:-1]
        assert [bar.get_x() for bar in bars] == pytest.approx(list(ends))
    lines = sorted(line.get_xdata()[0] for line in axis.lines)
    assert lines == pytest.approx(sorted(profile.memory_gb for profile in PROFILES.values() if profile.gpus))
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(budgets["l4"])
    assert "GB" in axis.get_xlabel()
    assert axis.get_xlim()[0] == 0 and axis.get_xlim()[1] >= max(sum(b.values()) for b in budgets.values())


def test_the_alt_text_names_every_profile_with_its_verdict(close_figures):
    budgets = memory.budgets(LLAMA_3_8B, RECIPES["course-llama3"], PROFILES)
    budgets["t4"] = {part: 2 * size for part, size in budgets["l4"].items()}
    _, alt = memory.plot_budgets(budgets, PROFILES)
    for name, budget in budgets.items():
        assert f"{name} {sum(budget.values()):.1f} GB" in alt
    assert "does not fit 16 GB" in alt and alt.count("does not fit") == 1
    assert alt.count(", fits") == 3  # a CPU has no fixed size


def test_a_small_base_is_drawn_in_megabytes(small_base, close_figures):
    recipe = replace(RECIPES["course-llama3"], max_length=128)
    budgets = memory.budgets(bases.skeleton(AutoConfig.from_pretrained(small_base)), recipe, PROFILES)
    figure, alt = memory.plot_budgets(budgets, PROFILES)
    largest = max(sum(budget.values()) for budget in budgets.values())
    assert largest < 1 and "MB" in figure.axes[0].get_xlabel()
    assert f"{largest * 1000:.1f} MB" in alt
    assert not figure.axes[0].lines  # a GPU's memory is far out of sight


def test_labels_are_legible(close_figures):
    """No GPU's line runs through a label, and none leaves the axes."""
    budgets = memory.budgets(LLAMA_3_8B, RECIPES["course-llama3"], PROFILES)
    figure, _ = memory.plot_budgets(budgets, PROFILES)
    figure.canvas.draw()
    (axis,) = figure.axes
    for label in axis.texts:
        box = label.get_window_extent()
        assert box.x1 <= axis.bbox.x1, label.get_text()
        for line in axis.lines:
            (left, bottom), (_, top) = axis.transData.transform(line.get_xydata())
            low, high = sorted((bottom, top))
            same_row = low < (box.y0 + box.y1) / 2 < high
            assert not (same_row and box.x0 < left < box.x1), label.get_text()


# --- measured --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, the GPU's memory is measured")
def test_the_measured_peak_sees_what_was_allocated():
    before = memory.resident_gb()
    block = np.ones(300_000_000 // 8)  # written to, so it is resident
    held, peak = memory.resident_gb() - before, memory.measured_peak_gb(before)
    del block
    assert 0.2 < held < 0.5
    assert held <= peak + 0.01
    assert memory.measured_peak_gb(before) >= 0.2  # a peak stays when the memory is given back
