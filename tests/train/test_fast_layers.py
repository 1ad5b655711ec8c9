"""The tricks of fast mode: each computes what it replaces, within rounding, and touches nothing else."""

import pytest
import torch
from train.test_fused_orpo import Couple, adapted, assert_equal, make, relative, some_pairs, toy  # noqa: F401, a fixture

from utils.train import fast_layers

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
