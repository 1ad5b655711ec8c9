"""The exercises of notebook 05: what 4 bits lose, a merge by hand, what may be pushed."""

from utils import hub
from utils.exercises.checks import close, exercise, function
from utils.publish.merge import ADAPTER_FILES

# What is in the folders of a run, and why a file stays there.
FILES = {
    "adapter_model.safetensors": None,
    "adapter_config.json": None,
    "run.json": None,
    "README.md": None,
    "LICENSE": None,
    "tokenizer.json": None,
    "optimizer.pt": "is a pickle, which can run code when it is loaded; only RESUME needs it.",
    "training_args.bin": "is a pickle, in spite of its name; run.json has the settings as text.",
    "rng_state.pth": "is a pickle with the state of the random numbers; only RESUME needs it.",
    "held_out.json": "holds other people's texts under licences of their own; the card names the data instead.",
    "debug.log": "is a log: it names folders, machine and user, and nobody needs it to use the adapter.",
}


@exercise("a number: the smallest update that changes the stored weight")
def check_lost(answer: float | None, levels, scale: float) -> str:
    """Check from which size on an update of a weight of 0 survives a merge into 4 bits.

    `levels` are the 16 levels of NF4, and `scale` is the largest absolute weight of the block.
    """
    above = min(float(level) for level in levels if level > 0)
    right = above * scale / 2
    slips = {
        above * scale: "that is the whole way to the next level: from the middle on, rounding goes up.",
        above / 2: "the levels reach from -1 to 1, and are stored as shares of the block's largest weight.",
        above: f"that is the next level itself: take the middle, and the block's largest weight, {scale:g}.",
    }
    why = "Half the way from 0 to the next level, times the largest weight."
    close(answer, right, "The smallest update", why=why, slips=slips)
    return f"Right: an update below {right:.2g} leaves the weight at 0, and what was trained there is lost."


@exercise("a function of weight, A, B, alpha and rank")
def check_merge(answer) -> str:
    """Check a merge written by hand, on made-up matrices: `weight` (out, in) in bf16, `A` (r, in), `B` (out, r)."""
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
    update, near = B @ A, 0.05  # two roundings to bf16 of numbers below 8
    slips = {
        "That is the weight without any update.": before.float(),
        f"The update is not scaled: LoRA adds alpha / r of it, here {alpha / rank:g} times.": before + update,
        "alpha is divided by the rank before it scales the update.": before + alpha * update,
        "That is the update alone: the weight is missing.": alpha / rank * update,
    }
    for told, wrong in slips.items():
        assert (merged.float() - wrong).abs().max() > near, told
    distance = (merged.float() - before - alpha / rank * update).abs().max()
    assert distance <= near, f"Not W + alpha / r * B @ A: it is up to {distance:.2g} away."
    assert merged.dtype == torch.bfloat16, f"It is {merged.dtype}: a merged model has the dtype of its base, bfloat16."
    return "Right: W + alpha / r * B @ A, in bf16; the adapter is not needed any more."


@exercise("a list of names of files")
def check_files(answer) -> str:
    """Check which of `FILES` may be pushed beside an adapter."""
    listed = isinstance(answer, list | tuple | set) and all(isinstance(name, str) for name in answer)
    assert listed, f"The answer is a list of names of files, not {answer!r}."
    strange = [name for name in answer if name not in FILES]
    assert not strange, f"There is no file {strange[0]!r} in the list: {', '.join(FILES)}."
    told = [f"{name} {why}" for name, why in FILES.items() if why and name in answer]
    assert not told, "\n".join(told)
    allowed = [name for name in FILES if hub.matches(name, ADAPTER_FILES)]
    missing = [name for name in allowed if name not in answer]
    assert not missing, f"These may go, and are needed or wanted there: {', '.join(missing)}."
    return f"Right: {', '.join(allowed)}."
