"""Predicts the GPU memory of a training run by part, before anything is downloaded, and measures it afterwards.

The model is a count of tensors, for the stock trainer and the fused one: 4-bit base, LoRA with 8-bit Adam, and what
autograd keeps of a Llama's layers. `benchmarks/memory.py` compares it with what is measured. Left out: fragmentation,
what the CUDA context takes, and models that are not plain decoders.
"""

import ctypes
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

from utils.train import base as bases

# As its config.json says, so that a budget can be drawn where the model itself cannot be reached
LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes that a logit takes at the peak, by trainer and by the bytes of dtype, counted in TRL 1.16 (fp32 each). Stock, on
# a CPU: the logits, twice their gradient, and the chosen half's log-softmax. Stock, in 16 bits on a GPU: the same, but
# the logits are gone before, for TRL has a Triton kernel there. Fused: a chunk's logits, in 16 bits and in
# fp32, and its log-probabilities.
LOGITS_BYTES = {"trl": {4: 14, 2: 10}, "fused": {4: 8, 2: 10}}
NF4_BYTES = 0.5 + 0.016  # a weight in 4 bits: half a byte, and its share of the scales (QLoRA, arXiv 2305.14314)
CHUNK_ROWS = 512  # of logits that exist at a time in `fused_orpo`
# glibc keeps freed blocks for the next request, so that resident memory hardly falls. A process that starts with these
# in its environment takes blocks from 64 kB on from the system and gives them back one by one: slower, but what is
# resident is what is allocated.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}
RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def count_weights(model, target_modules, lora_r: int = 16) -> dict[str, int]:
    """Count a decoder's weights: `layers` (stored in 4 bits), `embeddings`, `head` (0 if tied), `other` and `lora`."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is embeddings.weight or model.config.tie_word_embeddings
    matrices = {
        name: module.weight
        for name, module in model.named_modules()
        if module not in (head, embeddings) and getattr(module, "weight", None) is not None and module.weight.ndim == 2
    }
    counts = {
        "layers": sum(weight.numel() for weight in matrices.values()),
        "embeddings": embeddings.weight.numel(),
        "head": 0 if tied else head.weight.numel(),
    }
    targets = [weight for name, weight in matrices.items() if name.split(".")[-1] in target_modules]
    return counts | {
        "other": model.num_parameters() - sum(counts.values()),
        "lora": lora_r * sum(sum(weight.shape) for weight in targets),
    }


def predict(
    model,
    target_modules,
    micro_batch: int,
    max_length: int,
    dtype: str,
    recompute: bool = True,
    lora_r: int = 16,
    trainer: str = "trl",
    tokens: int | None = None,
) -> dict[str, float]:
    """Predict the peak memory of training by part.

    The peak is in the larger of two moments. In the first the loss is computed: the layers' activations are held, or
    with recomputation only what goes into each, and the logits. In the second, when the logits are gone, the backward
    pass is in the MLP of the last layer: beside what is held, one layer's activations, the MLP's gradients, and one
    matrix expanded from 4 bits.

    For each token a layer keeps two fp32 copies of the hidden state, for the norms, and in `dtype` what came out of the
    norms, query, key, value and output of attention, and the MLP's gate, its activation, up and their product. The
    stock trainer also keeps a mask for each row.

    `micro_batch` is in pairs, each two rows; `max_length` the tokens of the longest row; `tokens` those of the longest
    packed row, which "trl" does not read, and of which `None` is the worst case. Returns GB (10^9 bytes) by part, whose
    sum is the predicted peak; logits are 0 if the peak is in the second moment.
    """
    config, weights, width = model.config, count_weights(model, target_modules, lora_r), DTYPE_BYTES[dtype]
    padded = 2 * micro_batch * max_length
    tokens = padded if trainer == "trl" or tokens is None else tokens
    hidden, layers = config.hidden_size, config.num_hidden_layers
    mlp = getattr(config, "intermediate_size", None) or 4 * hidden
    heads = config.num_attention_heads * (getattr(config, "head_dim", None) or hidden // config.num_attention_heads)

    # The fused trainer needs no mask, but gathers its branches as padded rows, and the output back to tokens.
    extra = padded * max_length if trainer == "trl" else tokens * heads
    one_layer = tokens * (8 * hidden + width * (2 * hidden + 4 * mlp)) + width * (4 * padded * heads + extra)
    inputs = tokens * width * hidden * layers
    kept = inputs if recompute else one_layer * layers
    in_layer = kept + recompute * one_layer + width * (tokens * (2 * mlp + hidden) + hidden * mlp)
    in_loss = kept + tokens * 4 * hidden  # in fp32, what goes into the last norm
    logits = (padded if trainer == "trl" else CHUNK_ROWS) * config.vocab_size * LOGITS_BYTES[trainer][width]
    logits += 0 if trainer == "trl" else 2 * tokens * hidden * width  # what goes into the head, and its slopes
    parts = {
        "weights, 4 bits": weights["layers"] * NF4_BYTES + weights["other"] * width,
        "embeddings": weights["embeddings"] * width,
        "head": weights["head"] * width,
        "LoRA and its gradients": weights["lora"] * 8,
        "optimizer, 8 bits": weights["lora"] * 2,
        "activations": in_loss,
        "logits": logits,
    }
    if in_layer > in_loss + logits:
        parts |= {"activations": in_layer, "logits": 0.0}
    return {part: size / 1e9 for part, size in parts.items()}


def budgets(model, recipe, profiles: dict, trainer: str = "trl") -> dict[str, dict[str, float]]:
    """Predict the parts of the peak for every profile, each with its own dtype and pairs in a pass."""
    modules = bases.fit_modules(model, recipe.target_modules)
    max_length = min(recipe.max_length, bases.context_length(model) or recipe.max_length)
    return {
        name: predict(
            model,
            modules,
            profile.pairs_in_a_pass(trainer, recipe.effective_batch),
            max_length,
            profile.dtype,
            profile.recompute,
            recipe.lora_r,
            trainer,
        )
        for name, profile in profiles.items()
    }


def plot_budgets(budgets: dict[str, dict[str, float]], profiles: dict):
    """Draw predicted budgets as stacked bars, each GPU's memory as a black line if it is in sight; with alt text."""
    from utils.figures import fill_style, new_figure

    figure, (axis,) = new_figure(width=8.5, height=3.2)
    largest = max(sum(parts.values()) for parts in budgets.values())
    unit, scale = ("GB", 1.0) if largest >= 1 else ("MB", 1000.0)
    parts = list(next(iter(budgets.values())))
    for place, part in enumerate(parts):
        left = [sum(list(budget.values())[:place]) * scale for budget in budgets.values()]
        widths = [budget[part] * scale for budget in budgets.values()]
        axis.barh(list(budgets), widths, left=left, label=part, **fill_style(place))
    sentences = []
    for row, (name, budget) in enumerate(budgets.items()):
        needed, size = sum(budget.values()), profiles[name].memory_gb
        if 0 < size * scale <= largest * scale * 3:
            axis.plot([size * scale] * 2, [row - 0.45, row + 0.45], color="black", linewidth=2)
        verdict = "" if not size else f", {'fits' if needed <= 0.92 * size else 'does not fit'} {size:.0f} GB"
        right = max(needed, size if size * scale <= largest * scale * 3 else 0) * scale
        axis.text(right, row, f"  {needed * scale:.1f}{verdict}", va="center", fontsize=8)
        sentences.append(f"{name} {needed * scale:.1f} {unit}{verdict}")
    axis.invert_yaxis()
    axis.set(xlabel=f"predicted peak memory ({unit})", xlim=(0, 1.3 * axis.dataLim.x1))  # room for the labels
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure, "Predicted peak memory by GPU: " + "; ".join(sentences)


@contextmanager
def measure_peak():
    """Measure the most memory that a `with` block holds above what was held on entry.

    On a GPU that is what tensors take; elsewhere the resident memory of this process, whose high-water mark Linux
    resets on demand. macOS does not: there a higher peak before the block counts too. Yields an object whose `gb` is
    the peak in GB (10^9 bytes), once the block has ended.
    """
    import psutil
    import torch

    peak = SimpleNamespace(gb=0.0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        find_most = torch.cuda.max_memory_allocated
    else:
        getattr(ctypes.pythonapi, "malloc_trim", int)(0)  # glibc keeps what was freed, and would hide what comes
        with suppress(OSError):
            RESET.write_text("5")  # the high-water mark of the resident memory, see `man proc_pid_clear_refs`
        before = psutil.Process().memory_info().rss
        find_most = _find_most_resident
    try:
        yield peak
    finally:
        peak.gb = max(0.0, find_most() - before) / 1e9


def _find_most_resident() -> float:
    """Return the high-water mark of the resident memory, in bytes; macOS has only that of the whole process."""
    if STATUS.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
