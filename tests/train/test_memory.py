"""The prediction of memory, against real models' weights, what autograd keeps, and the published run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PhiConfig, Qwen2Config

from utils.train import base as bases
from utils.train import fused_orpo, memory
from utils.train.profiles import PROFILES
from utils.train.recipes import ATTENTION, MLP, RECIPES

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
    """The article measured about 20 GB on an L4 of 23.7, with all that is not 4-bit in fp32, and without a kernel."""
    l4, recipe = PROFILES["l4"], RECIPES["article-llama3"]
    sizes = l4.micro_batch, recipe.max_length
    parts = memory.predict(LLAMA_3_8B, SEVEN, *sizes, "float32", l4.recompute, recipe.lora_r)
    assert 15 < sum(parts.values()) < 23.7
    today = memory.predict(LLAMA_3_8B, SEVEN, *sizes, l4.dtype, l4.recompute, recipe.lora_r)
    assert 10 < sum(today.values()) < sum(parts.values())


@pytest.mark.parametrize("trainer", ["trl", "fused"])
@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.gpus])
def test_every_gpus_profile_fits_its_gpu(name, trainer):
    parts = memory.budgets(LLAMA_3_8B, RECIPES["course-llama3"], PROFILES, trainer)[name]
    assert sum(parts.values()) < 0.92 * PROFILES[name].memory_gb


@pytest.mark.parametrize("dtype", memory.DTYPE_BYTES)
@pytest.mark.parametrize("recompute", [True, False])
def test_every_part_takes_memory(dtype, recompute):
    stock = gb(dtype=dtype, recompute=recompute)
    fused = gb(dtype=dtype, recompute=recompute, trainer="fused")
    assert all(size > 0 for size in stock.values())
    assert list(fused) == list(stock)
    assert all(size > 0 for part, size in fused.items() if part != "logits")


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_every_decoder_can_be_predicted(config):
    model = bases.skeleton(config)
    sizes = model, bases.linear_layers(model), 2, 64, "float32", False, 4
    stock, fused = (memory.predict(*sizes, trainer) for trainer in ("trl", "fused"))
    assert all(0 < parts["activations"] < 0.1 for parts in (stock, fused))


@pytest.mark.parametrize("heads", [{}, {"num_key_value_heads": 2}, {"num_key_value_heads": 2, "head_dim": 32}])
def test_what_autograd_keeps_of_the_layers_is_what_is_counted(heads):
    """In fp32 and without recomputation, as the stock trainer runs them: padded, with LoRA on all seven."""
    from peft import LoraConfig, get_peft_model

    config, pairs, length = LlamaConfig(**SMALL, **heads, intermediate_size=160, attn_implementation="sdpa"), 2, 96
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=4, target_modules=SEVEN))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def count(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens, mask = torch.ones(2 * pairs, length, dtype=torch.long), torch.ones(2 * pairs, length, dtype=torch.long)
    mask[0, 50:] = 0
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = model.base_model.model.model(tokens, attention_mask=mask, use_cache=False)
    predicted = memory.predict(bases.skeleton(config), SEVEN, pairs, length, "float32", False, 4)
    assert predicted["logits"] > 0  # so the activations are those of the moment of the loss
    assert sum(kept.values()) / 1e9 == pytest.approx(predicted["activations"], rel=0.05)
    del output


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
    assert parts["logits"] == pytest.approx(2 * 2 * 1024 * 128256 * 10 / 1e9)
    assert gb(dtype="float32")["logits"] == pytest.approx(2 * 2 * 1024 * 128256 * 14 / 1e9)
    assert parts["activations"] == pytest.approx(4096 * 4096 * (32 * 2 + 4) / 1e9)  # what goes into layers and norm
    assert parts["LoRA and its gradients"] == pytest.approx(41_943_040 * (4 + 4) / 1e9)
    assert 3.5 < parts["weights, 4 bits"] < 3.7  # 6.98 billion weights at 4.127 bits, as in QLoRA's paper


# --- the fused trainer -----------------------------------------------------------------------------------------


def test_the_chunks_are_those_of_the_fused_trainer():
    assert memory.CHUNK_ROWS == fused_orpo.CHUNK_ROWS


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_the_fused_trainer_takes_less_and_least_where_prompts_and_padding_are_long(recompute, micro_batch):
    given = {"recompute": recompute, "micro_batch": micro_batch}
    stock, worst = gb(**given), gb(trainer="fused", **given)
    typical = gb(trainer="fused", tokens=micro_batch * 1024, **given)
    totals = [sum(parts.values()) for parts in (typical, worst, stock)]
    assert totals == sorted(totals) and totals[0] < totals[1]
    assert gb(tokens=1, **given) == stock  # it has no packed row
    changed = {part for part in stock if stock[part] != typical[part]}
    assert changed <= {"activations", "logits"}


def test_of_the_two_moments_the_larger_one_is_the_peak():
    """The chunks of logits are what it takes for few tokens, the backward pass through a layer for many."""
    few, many = gb(trainer="fused", tokens=512), gb(trainer="fused", micro_batch=8)
    assert few["logits"] > 512 * 128256 * 10 / 1e9
    assert many["logits"] == 0
    tokens = 2 * 8 * 1024
    one_layer = tokens * (12 * 4096 + 2 * (5 * 4096 + 4 * 14336))
    beside = tokens * 2 * (32 * 4096 + 2 * 14336 + 4096) + 2 * 4096 * 14336
    assert many["activations"] == pytest.approx((one_layer + beside) / 1e9)


# --- budgets ---------------------------------------------------------------------------------------------------


def test_a_budget_for_every_profile_with_its_own_pairs():
    recipe = RECIPES["course-llama3"]
    budgets = memory.budgets(LLAMA_3_8B, recipe, PROFILES)
    assert list(budgets) == list(PROFILES)
    for name, profile in PROFILES.items():
        assert budgets[name] == gb(micro_batch=profile.micro_batch, dtype=profile.dtype, recompute=profile.recompute)
    fused = memory.budgets(LLAMA_3_8B, recipe, PROFILES, "fused")
    assert fused["l4"] == gb(trainer="fused", micro_batch=PROFILES["l4"].packed_batch)
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

BLOCK = 300_000_000  # bytes


@pytest.mark.skipif(torch.cuda.is_available() or not memory.RESET.exists(), reason="measures what Linux keeps")
def test_a_peak_is_measured_though_the_memory_was_given_back_within():
    held = np.ones(BLOCK // 8)
    with pytest.raises(RuntimeError), memory.measure_peak() as peak:
        block = np.ones(BLOCK // 8)
        del block
        raise RuntimeError  # it is measured of what stops with an error, too
    assert peak.gb == pytest.approx(BLOCK / 1e9, rel=0.1)  # and not what was held on entry
    with memory.measure_peak() as next_peak:
        pass
    assert next_peak.gb < 0.03  # a peak from before does not count
    del held
