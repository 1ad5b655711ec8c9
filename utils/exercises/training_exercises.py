"""The checks of the exercises in notebook 05: rounding, the merge, the push.

Left out: the questions, which stand in the notebooks, and the way an answer is taken, see `exercises`.
"""

from utils import hub as hub_access
from utils.exercises.checks import close, exercise, function, number
from utils.publish import merge as merging

# What lies in the folders of a run, and why a file stays there.
FILES = {
    "adapter_model.safetensors": None,
    "adapter_config.json": None,
    "run.json": None,
    "README.md": None,
    "LICENSE": None,
    "tokenizer.json": None,
    "optimizer.pt": "is a pickle, which can run code where it is loaded; only RESUME needs it.",
    "training_args.bin": "is a pickle, in spite of its name; the settings stand in run.json as text.",
    "rng_state.pth": "is a pickle with the state of the random numbers; only RESUME needs it.",
    "held_out.json": "holds other people's texts under licences of their own; the card names the data instead.",
    "debug.log": "is a log: it names folders, machine and user, and nobody needs it to use the adapter.",
}


@exercise("a number: the smallest update that changes the stored weight")
def check_lost(answer: float | None, levels, scale: float) -> str:
    """Check from which size on an update of a weight of 0 survives a merge into 4 bits.

    Args:
        answer: the size of a positive update, or `None` before it is tried.
        levels: the 16 levels of NF4, from -1 to 1, in order.
        scale: the largest absolute weight of the block, which stays as it is.

    Raises:
        AssertionError: saying which of the usual slips it looks like.
    """
    number(answer, "The smallest update", least=0)
    above = min(float(level) for level in levels if level > 0)
    right = above * scale / 2
    slips = {
        above * scale: "that is the whole way to the next level: from the middle on, rounding goes up.",
        above / 2: "the levels reach from -1 to 1, and are stored as shares of the block's largest weight.",
        above: f"that is the next level itself: take the middle, and the block's largest weight, {scale:g}.",
    }
    for slip, why in slips.items():
        assert abs(answer - slip) > 0.01 * slip, f"Not {answer:g}: {why}"
    close(answer, right, "The smallest update", why="Half the way from 0 to the next level, times the largest weight.")
    return f"Right: an update below {right:.2g} leaves the weight at 0, and what was trained there is lost."


@exercise("a function of weight, A, B, alpha and rank")
def check_merge(answer) -> str:
    """Check a merge written by hand, on made-up matrices.

    Args:
        answer: function of `weight` (out, in) in bf16, `A` (r, in), `B` (out, r), `alpha` and `rank` that returns the
            merged weight, or `None` before it is tried.

    Raises:
        AssertionError: saying what is missing.
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 20, generator=draw).to(torch.bfloat16)
    A, B = 0.1 * torch.randn(4, 20, generator=draw), torch.randn(12, 4, generator=draw)
    alpha, rank = 10, 4  # 2.5: neither the rank, nor a root, nor a whole number
    before = weight.clone()
    merged = function(answer, "Your function")(weight, A, B, alpha, rank)
    assert isinstance(merged, torch.Tensor), f"Your function returns {type(merged).__name__}, not the merged weight."
    assert torch.equal(weight, before), "Your function changes the weight that it is given: return a new one."
    assert merged.shape == weight.shape, (
        f"The merged weight is {tuple(merged.shape)}, the weight {tuple(weight.shape)}."
    )

    def off(other) -> float:
        return (merged.float() - other).abs().max().item()

    update, base = B @ A, weight.float()
    near = 0.05  # two roundings to bf16 of numbers below 8
    assert off(base) > near, "That is the weight without any update."
    assert off(base + update) > near, (
        f"The update is not scaled: LoRA adds alpha / r of it, here {alpha / rank:g} times."
    )
    assert off(base + alpha * update) > near, "alpha is divided by the rank before it scales the update."
    assert off(alpha / rank * update) > near, "That is the update alone: the weight is missing."
    distance = off(base + alpha / rank * update)
    assert distance <= near, f"Not W + alpha / r * B @ A: it is up to {distance:.2g} away."
    assert merged.dtype == torch.bfloat16, f"It is {merged.dtype}: a merged model has the dtype of its base, bfloat16."
    return "Right: W + alpha / r * B @ A, in bf16; the adapter is not needed any more."


@exercise("a list of names of files")
def check_files(answer) -> str:
    """Check which of `FILES` may be pushed beside an adapter.

    Args:
        answer: names, or `None` before it is tried.

    Raises:
        AssertionError: naming a file, and why it stays or goes.
    """
    listed = isinstance(answer, list | tuple | set) and all(isinstance(name, str) for name in answer)
    assert listed, f"The answer is a list of names of files, not {answer!r}."
    strange = [name for name in answer if name not in FILES]
    assert not strange, f"There is no file {strange[0]!r} in the list: {', '.join(FILES)}."
    told = [f"{name} {why}" for name, why in FILES.items() if why and name in answer]
    assert not told, "\n".join(told)
    allowed = [name for name in FILES if hub_access.matches(name, merging.ADAPTER_FILES)]
    missing = [name for name in allowed if name not in answer]
    assert not missing, f"These may go, and are needed or wanted there: {', '.join(missing)}."
    return f"Right: {', '.join(allowed)}. No pickle, no log, no texts of others."
