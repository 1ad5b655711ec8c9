"""Looks at a base, fetches it, and loads it in 4 bits or whole, as notebook 03 does in its cells.

Left out: full fine-tuning, and every quantisation but NF4.
"""

import hashlib
from pathlib import Path

WEIGHTS = "*.safetensors"
SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]


def skeleton(config):
    """Build a causal language model without its weights, to count and name its layers; takes seconds and no memory.

    Args:
        config: `transformers` configuration.

    Raises:
        ValueError: if the configuration is not that of a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise ValueError(
            f"A {config.model_type} is not a causal language model that transformers knows. Choose one that continues "
            "text, such as a Llama, Qwen, Mistral or Phi."
        ) from error


def linear_layers(model) -> list[str]:
    """Name the linear layers that LoRA can be put on: the last part of each name, without the output head.

    Args:
        model: a causal language model, or its `skeleton`.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    names = (
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    )
    return list(dict.fromkeys(name.split(".")[-1] for name in names))


def limits(model) -> tuple[int | None, list[str]]:
    """Return what a recipe is fitted to: the most tokens that a base reads (or `None`), and its linear layers."""
    return getattr(model.config, "max_position_embeddings", None), linear_layers(model)


def fetch_base(base_model: str, revision: str | None, token: str | None = None) -> Path:
    """Download a base, compare each file of weights with what the Hub lists, and see that it is whole.

    Args:
        base_model: Hub id, or a local folder, which is only seen to be whole.
        revision: commit of the Hub repository.
        token: Hub token for gated repositories.

    Returns:
        The folder with the files; `from_pretrained` finds them in the cache.

    Raises:
        ValueError: naming the file that is truncated or is not what the Hub lists. It is deleted from the cache.
    """
    from huggingface_hub import HfApi, snapshot_download
    from safetensors import SafetensorError, safe_open

    folder, listed = Path(base_model), {}
    if not folder.is_dir():
        folder = Path(
            snapshot_download(base_model, revision=revision, token=token, allow_patterns=[WEIGHTS, *SMALL_FILES])
        )
        info = HfApi(token=token).model_info(base_model, revision=revision, files_metadata=True)
        listed = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs}
    for path in sorted(folder.rglob(WEIGHTS)):
        name = path.relative_to(folder).as_posix()
        if name in listed:
            with open(path, "rb") as file:
                came = hashlib.file_digest(file, "sha256").hexdigest()
            if came != listed[name]:
                path.resolve().unlink()
                raise ValueError(
                    f"{name} of {base_model} did not arrive as the Hub lists it (sha256 {came[:12]} instead of "
                    f"{listed[name][:12]}). It was deleted: run this cell again to fetch it afresh."
                )
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{name} of {base_model} is truncated or damaged where it comes from ({error}). Choose another "
                "revision or another copy of this base."
            ) from error
    return folder


def nf4_config(dtype):
    """Describe 4-bit NormalFloat storage with double quantisation (QLoRA, arXiv 2305.14314, section 3).

    Args:
        dtype: `torch.dtype` that the weights are expanded to for each matrix product.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_base(
    base_model: str,
    dtype,
    revision: str | None = None,
    four_bit: bool = True,
    device_map="auto",
    token: str | None = None,
):
    """Load a causal language model, in 4 bits or whole, never with remote code and never from a pickle.

    Args:
        base_model: Hub id or local folder.
        dtype: `torch.dtype` of the weights that stay whole, and of the computation.
        revision: commit of the Hub repository; `None` for a local folder.
        four_bit: store the linear layers as NF4.
        device_map: as in `from_pretrained`; `"auto"` takes the GPU where there is one.
        token: Hub token for gated repositories.
    """
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
