"""Predicts the GPU memory of a training run by part, before anything is downloaded, and measures it afterwards.

The model is a count of tensors for the stock trainer: 4-bit base, LoRA with 8-bit Adam, recomputed layers, whole
logits. It is an estimate: the measured peak is printed beside it in notebook 03. Left out: fragmentation, and models
that are not plain decoders.
"""

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
# The stock trainer holds the logits of every position about 4.5 times over in fp32: model output, its shifted copy
# for the loss, the log-softmax, and their gradients.
LOGITS_BYTES = 18


def count_weights(model, target_modules, lora_r: int = 16) -> dict[str, int]:
    """Count the weights of a decoder by part.

    Args:
        model: a causal language model, or its `utils.bases.skeleton`.
        target_modules: names of the linear layers that get LoRA.
        lora_r: rank of LoRA.

    Returns:
        Weights in `layers` (matrices, which are stored in 4 bits), `embeddings`, `head` (0 if tied), `other` (norms and
        biases) and `lora`.
    """
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
    model, target_modules, micro_batch: int, max_length: int, dtype: str, recompute: bool = True, lora_r: int = 16
) -> dict[str, float]:
    """Predict the peak memory of training by part.

    Args:
        model: the base, or its `utils.bases.skeleton`.
        target_modules: names of the linear layers that get LoRA.
        micro_batch: pairs in one forward pass; each is two rows.
        max_length: tokens of the longest row.
        dtype: "bfloat16", "float16" or "float32", of everything that is neither 4-bit nor LoRA.
        recompute: layers are recomputed in the backward pass.
        lora_r: rank of LoRA.

    Returns:
        GB (10^9 bytes) by part; their sum is the predicted peak.
    """
    config, weights, width = model.config, count_weights(model, target_modules, lora_r), DTYPE_BYTES[dtype]
    tokens = 2 * micro_batch * max_length
    # One layer keeps about ten rows of the hidden size and four of the MLP for its backward pass; recomputation keeps
    # that for one layer, and one row of the hidden size for each of the others.
    mlp = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    per_layer = tokens * (10 * config.hidden_size + 4 * mlp) * width
    kept = tokens * config.hidden_size * width * config.num_hidden_layers
    parts = {
        "weights, 4 bits": weights["layers"] * (0.5 + 0.016) + weights["other"] * width,  # one 8-bit scale for 64
        "embeddings": weights["embeddings"] * width,
        "head": weights["head"] * width,
        "LoRA and its gradients": weights["lora"] * 8,
        "optimizer, 8 bits": weights["lora"] * 2,
        "activations": kept + per_layer if recompute else per_layer * config.num_hidden_layers,
        "logits": tokens * config.vocab_size * LOGITS_BYTES,
    }
    return {part: size / 1e9 for part, size in parts.items()}


def budgets(model, recipe, profiles: dict) -> dict[str, dict[str, float]]:
    """Predict the parts of the peak for every profile, each with its own dtype and pairs in a pass.

    Args:
        model: the base, or its `utils.bases.skeleton`.
        recipe: a `utils.recipes.Recipe`.
        profiles: name -> `utils.profiles.Profile`.
    """
    return {
        name: predict(
            model,
            recipe.target_modules,
            min(profile.micro_batch, recipe.effective_batch),
            recipe.max_length,
            profile.dtype,
            profile.recompute,
            recipe.lora_r,
        )
        for name, profile in profiles.items()
    }


def plot_budgets(budgets: dict[str, dict[str, float]], profiles: dict):
    """Draw predicted budgets as stacked bars, with each GPU's memory as a black line where it is in sight.

    Args:
        budgets: profile name -> parts of `predict`, in GB.
        profiles: name -> `utils.profiles.Profile`; a memory of 0 draws no line.

    Returns:
        (figure, alt text).
    """
    from utils.figures import SEQUENCE, new_figure

    figure, (axis,) = new_figure(width=8.5, height=3.2)
    largest = max(sum(parts.values()) for parts in budgets.values())
    unit, scale = ("GB", 1.0) if largest >= 1 else ("MB", 1000.0)
    parts = list(next(iter(budgets.values())))
    for part, colour in zip(parts, SEQUENCE, strict=True):
        left = [sum(list(budget.values())[: parts.index(part)]) * scale for budget in budgets.values()]
        axis.barh(
            list(budgets), [budget[part] * scale for budget in budgets.values()], left=left, label=part, color=colour
        )
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


def resident_gb() -> float:
    """Return what this process holds in RAM now, in GB."""
    import psutil

    return psutil.Process().memory_info().rss / 1e9


def measured_peak_gb(resident_before: float) -> float:
    """Return the measured peak in GB: allocated on the GPU, or else resident in RAM above what was there before.

    Args:
        resident_before: `resident_gb` before the base was loaded.
    """
    import resource
    import sys

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9 - resident_before
