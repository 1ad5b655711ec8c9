"""The tricks of fast mode: each computes what it replaces, within rounding, and touches nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from train.test_fused_orpo import Couple, adapted, assert_equal, make, relative, some_pairs, toy  # noqa: F401, a fixture
from trl.experimental.orpo import ORPOTrainer

from utils.practice.small_world import preference_pairs
from utils.train import fast_layers, model_loading
from utils.train.fused_orpo import FusedORPOTrainer

ROOT = Path(__file__).resolve().parents[2]
IDS = torch.arange(3, 43)[None]


def logits_of(model):
    with torch.no_grad():
        return model(IDS).logits


def test_one_product_is_the_layer_of_peft():
    model = adapted(toy("llama", {}), lora_alpha=13)  # a scaling that is no power of two
    expected = logits_of(model)
    assert fast_layers.fuse_lora(model) == 14
    assert torch.allclose(logits_of(model), expected, atol=1e-4)
    assert relative(logits_of(model), expected) < 1e-6
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_B" in name).add_(0.1)
    assert relative(logits_of(model), expected) > 1e-3  # it is computed from the weights as they are


def test_an_adapter_that_is_switched_off_or_merged_is_not_added():
    model = adapted(toy("llama", {}))
    with model.disable_adapter():
        base = logits_of(model)
    expected = logits_of(model)
    fast_layers.fuse_lora(model)
    with model.disable_adapter():
        assert torch.equal(logits_of(model), base) and not torch.allclose(base, expected, atol=1e-2)
    model.merge_adapter()
    assert torch.allclose(logits_of(model), expected, atol=1e-4)
    model.unmerge_adapter()
    assert torch.allclose(logits_of(model.merge_and_unload()), expected, atol=1e-4)


def test_dropout_stays():
    model = adapted(toy("llama", {}), lora_dropout=0.5).train()
    torch.manual_seed(3)
    expected = logits_of(model)
    fast_layers.fuse_lora(model)
    torch.manual_seed(3)
    assert relative(logits_of(model), expected) < 1e-6


def test_two_adapters_and_other_kinds_of_lora_stay_as_they_are():
    dora = get_peft_model(toy("llama", {}), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True))
    assert fast_layers.fuse_lora(dora) == 0
    model = adapted(toy("llama", {}))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    expected = logits_of(model)
    fast_layers.fuse_lora(model)
    assert torch.allclose(logits_of(model), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_frozen_takes_the_dtype_and_lora_stays(dtype):
    model = adapted(toy("llama", {}))
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    assert fast_layers.cast_frozen(model, dtype) == (frozen if dtype == torch.bfloat16 else 0)
    kinds = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert kinds == {(True, torch.float32), (False, dtype)}


def test_where_nothing_can_be_compiled_a_sentence_says_so(tmp_path):
    """In a process of its own, which has no compiler."""
    script = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from utils.train import fast_layers
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model, ids = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)), torch.ones(1, 4, dtype=torch.long)
expected = model(ids).logits
assert fast_layers.compile_layers(model) == 0
assert torch.equal(model(ids).logits, expected)
"""
    without = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=without, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Layers are not compiled: ")


@pytest.mark.skipif(" " in torch.__file__, reason="torch does not quote its own path for the linker")
def test_compiled_layers_give_the_same_numbers_without_a_break(make):  # noqa: F811
    """Recomputed or not, in evaluation and training, for any length: all of it stays compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    couple = Couple(make, adapted(toy("llama", {"num_hidden_layers": 3})), gradient_checkpointing=True)
    for trainer in (couple.stock, couple.fused):
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert fast_layers.compile_layers(couple.fused.causal) == 3
    for count, couple.fused.keep_gb in ((3, 0), (2, 1e3), (4, 0)):
        assert_equal(couple.errors(some_pairs(count, seed=count)))
    batch = couple.fused.data_collator(some_pairs(3))
    with torch.no_grad():
        assert couple.fused.get_batch_loss_metrics(couple.fused.model.eval(), batch, "eval")[0].isfinite()
    found = torch._dynamo.utils.counters
    assert found["frames"]["ok"] == found["frames"]["total"] > 0 and not found["graph_break"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_mode_trains_as_the_stock_trainer_does(make, small_base, dtype):  # noqa: F811
    logs = []
    for kind in (ORPOTrainer, FusedORPOTrainer):
        base = model_loading.load_base(str(small_base), dtype, device_map={"": "cpu"})
        options = {"pairs": preference_pairs(8, seed=3), "per_device_train_batch_size": 2, "logging_steps": 1}
        trainer = make(kind, adapted(base), bf16=dtype == torch.bfloat16, **options)
        if kind is FusedORPOTrainer:
            fast_layers.speed_up(trainer.model, dtype)
        trainer.train()
        logs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(logs[0]) == 12
    assert logs[1] == pytest.approx(logs[0], rel=1e-4 if dtype == torch.float32 else 0.02)
