"""The prediction of memory, against real models' weights, what autograd keeps, and the published run."""

import numpy as np
import pytest
import torch
from support.planned import ATTENTION, MLP, Planned
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PhiConfig, Qwen2Config

from utils.train import base as bases
from utils.train import memory
from utils.train.profiles import PROFILES

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


# --- the prediction --------------------------------------------------------------------------------------------


def test_the_articles_run_fits_an_l4_as_published():
    """The article measured about 20 GB on an L4 of 23.7, with all that is not 4-bit in fp32, and without a kernel."""
    l4, recipe = PROFILES["l4"], Planned()
    sizes = l4.micro_batch, recipe.max_length
    parts = memory.predict(LLAMA_3_8B, SEVEN, *sizes, "float32", l4.recompute, recipe.lora_r)
    assert 15 < sum(parts.values()) < 23.7
    today = memory.predict(LLAMA_3_8B, SEVEN, *sizes, l4.dtype, l4.recompute, recipe.lora_r)
    assert 10 < sum(today.values()) < sum(parts.values())


@pytest.mark.parametrize("trainer", ["trl", "fused"])
@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.gpus])
def test_every_gpus_profile_fits_its_gpu(name, trainer):
    parts = memory.budgets(LLAMA_3_8B, Planned(), PROFILES, trainer)[name]
    assert sum(parts.values()) < 0.92 * PROFILES[name].memory_gb


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


def test_more_of_anything_never_takes_less():
    totals = [sum(gb(micro_batch=pairs, max_length=64 * pairs).values()) for pairs in range(1, 20)]
    assert totals == sorted(totals) and len(set(totals)) == len(totals)
    assert sum(gb(lora_r=64).values()) > sum(gb().values())
    assert gb(dtype="float32")["embeddings"] == 2 * gb()["embeddings"]
    assert gb(dtype="float16") == gb()


def test_the_parts_that_can_be_counted_by_hand():
    parts = gb()
    assert parts["head"] == pytest.approx(128256 * 4096 * 2 / 1e9)
    assert parts["logits"] == pytest.approx(2 * 2 * 1024 * 128256 * 10 / 1e9)
    assert gb(dtype="float32")["logits"] == pytest.approx(2 * 2 * 1024 * 128256 * 14 / 1e9)
    assert parts["activations"] == pytest.approx(4096 * 4096 * (32 * 2 + 4) / 1e9)  # what goes into layers and norm
    assert parts["LoRA and its gradients"] == pytest.approx(41_943_040 * (4 + 4) / 1e9)
    assert 3.5 < parts["weights, 4 bits"] < 3.7  # 6.98 billion weights at 4.127 bits, as in QLoRA's paper


# --- the fused trainer -----------------------------------------------------------------------------------------


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


# --- budgets ---------------------------------------------------------------------------------------------------


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
