"""The 4-bit base: its form, its refusals, and gradients that an evaluation pass leaves alone."""

import shutil

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM

from utils.train import model_loading

IDS = torch.arange(16).reshape(2, 8) + 100


@pytest.fixture
def avx512_bf16(monkeypatch):
    """Let bitsandbytes take this CPU for one with AVX512-BF16: the repacking of the weights runs on any CPU."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)


def gradient(model) -> torch.Tensor:
    """Return the loss's gradient with respect to the embedded input, which passes back through every layer."""
    model.train()
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embedded, labels=IDS).loss.backward()
    return embedded.grad


def evaluate(model) -> None:
    model.eval()
    with torch.no_grad():
        model(IDS)


def test_an_evaluation_pass_leaves_the_gradients_unchanged(small_base, avx512_bf16):
    model = model_loading.load_base(str(small_base), torch.float32)
    before = gradient(model)
    evaluate(model)
    assert torch.equal(gradient(model), before)


def four_bit_layers(model) -> list:
    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def test_the_base_is_nf4_with_double_quantisation(small_base):
    model = model_loading.load_base(str(small_base), torch.float32)
    layers = four_bit_layers(model)
    assert len(layers) == 7 * model.config.num_hidden_layers
    assert {layer.weight.quant_state.quant_type for layer in layers} == {"nf4"}
    assert all(layer.weight.quant_state.nested for layer in layers)
    assert isinstance(model.lm_head, torch.nn.Linear) and not isinstance(model.lm_head, bitsandbytes.nn.Linear4bit)
    assert model.get_input_embeddings().weight.dtype == torch.float32


def test_pickled_weights_are_refused(small_base, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(small_base, folder)
    model = AutoModelForCausalLM.from_pretrained(small_base)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        model_loading.load_base(str(folder), torch.float32)
