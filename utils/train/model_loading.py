"""Loads a base in 4 bits or whole, as notebook 03 does in its cells, for the notebooks after it.

Left out: full fine-tuning, and every quantisation but NF4. What is known of a base before it is loaded: see `bases`.
"""

from utils.train import memory


def nf4_config(dtype):
    """Describe 4-bit NormalFloat storage with double quantisation (QLoRA, arXiv 2305.14314, section 3)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def weights_gb(skeleton, four_bit: bool, bytes_each: int = 2) -> float:
    """Return the memory that the weights of a model take, in GB (10^9 bytes).

    In 4 bits only the linear layers shrink, not the embeddings and the output head.
    """
    linear = memory.count_weights(skeleton, ())["layers"] if four_bit else 0
    return ((skeleton.num_parameters() - linear) * bytes_each + linear * memory.NF4_BYTES) / 1e9


def load_base(
    base_model: str,
    dtype,
    revision: str | None = None,
    four_bit: bool = True,
    device_map="auto",
    token: str | None = None,
):
    """Load a causal language model, in 4 bits or whole, never with remote code and never from a pickle."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base_model,
        revision=revision,
        quantization_config=nf4_config(dtype) if four_bit else None,
        dtype=dtype,
        device_map=device_map,
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        token=token,
    )
    return keep_4bit_layout(model)


def keep_4bit_layout(model):
    """Stop bitsandbytes from repacking the 4-bit weights in an evaluation pass, and return the model.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 packs the weights of a layer in `eval()` for a fast kernel and leaves
    them packed. The next training step reads the packed layout, and the gradients are silently wrong. Packing is also
    slow, and it demands output sizes divisible by 32. On a GPU this changes nothing.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model
