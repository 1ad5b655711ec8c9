"""The checks of the exercises in notebooks 03 and 05: steps, LoRA's size, the window, rounding, the merge, the push.

Left out: the questions, which stand in the notebooks, and the way an answer is taken, see `exercises`.
"""

import math

from utils import hub as hub_access
from utils.data import chat_format
from utils.exercises.checks import close, exercise, function, number
from utils.publish import merge as merging
from utils.train import base as bases
from utils.train import memory

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


@exercise("a whole number of optimizer steps")
def check_steps(answer: int | None, pairs: int, batch: int, epochs: int) -> str:
    """Check how many optimizer steps a run takes.

    Args:
        answer: steps, or `None` before it is tried.
        pairs, batch, epochs: pairs to train on, pairs in a step, and how often all are seen.

    Raises:
        AssertionError: saying which of the usual slips it looks like.
    """
    number(answer, "The number of steps", least=1, whole=True)
    each = math.ceil(pairs / batch)
    slips = {
        pairs * epochs: f"that would be one step for each pair; {batch} pairs make a step.",
        each: "that is one epoch.",
        pairs // batch * epochs: "the pairs left over at the end of an epoch make a step, too.",
        math.ceil(pairs * epochs / batch): "a step never reaches over the end of an epoch: round up in each, then add.",
    }
    slips.pop(each * epochs, None)  # where several roads lead there
    assert answer not in slips, f"Not {answer}: {slips[answer]}"
    close(answer, each * epochs, "The number of steps", relative=0, why=f"Divide {pairs} by {batch}, and round up.")
    return (
        f"Right: {each} steps an epoch, the last one with {pairs - (each - 1) * batch} pairs, {each * epochs} in all."
    )


@exercise("a number of weights")
def check_trainable(answer: int | None, model, lora_r: int) -> str:
    """Check how many weights LoRA trains beside `q_proj` and `v_proj` alone.

    Args:
        answer: weights, or `None` before it is tried.
        model: the base, or its `utils.train.base.skeleton`.
        lora_r: rank.

    Raises:
        AssertionError: saying which of the usual slips it looks like.
    """
    shapes = [
        tuple(module.weight.shape)
        for name, module in model.named_modules()
        if name.split(".")[-1] in ("q_proj", "v_proj")
    ]
    if not shapes:
        return "This base has no q_proj and v_proj: there is nothing to count. Try it on a Llama."
    number(answer, "The number of weights", least=1, whole=True)
    layers, right = len(shapes) // 2, lora_r * sum(sum(shape) for shape in shapes)
    squares = lora_r * len(shapes) * 2 * max(map(max, shapes))
    slips = {
        right / layers: f"that is one layer of {layers}.",
        right / 2: "A and B are two matrices: one has r rows, the other r columns.",
        right / lora_r: f"that is rank 1, and the rank is {lora_r}.",
        sum(rows * columns for rows, columns in shapes): "these are the frozen weights beside which LoRA trains.",
        squares: "v_proj is narrower than q_proj where several query heads share one key and value.",
        memory.count_weights(model, bases.linear_layers(model), lora_r)[
            "lora"
        ]: "that is LoRA beside all matrices of a layer.",
    }
    slips.pop(right, None)
    assert answer not in slips, f"Not {answer:,}: {slips[answer]}"
    why = f"Each matrix of m rows and n columns gets r * (m + n) weights; here r is {lora_r}."
    close(answer, right, "The number of weights", relative=0, why=why)
    return f"Right: {right:,}, in {layers} layers with {shapes[0]} for q_proj and {shapes[1]} for v_proj."


@exercise("a whole number of tokens")
def check_window(answer: int | None, pairs, tokenizer, share: float = 0.75) -> str:
    """Check the shortest `max_length` into which a share of the pairs fits whole.

    Args:
        answer: tokens, or `None` before it is tried.
        pairs: rows with `prompt`, `chosen` and `rejected`.
        tokenizer: prepared by `utils.data.chat_format.prepare_tokenizer`.
        share: of the pairs.

    Raises:
        AssertionError: saying how many pairs fit into that many tokens.
    """
    number(answer, "The window", least=1, whole=True)
    lengths = chat_format.batch_lengths(list(pairs), tokenizer)
    wanted = math.ceil(share * len(lengths))
    whole = sorted(prompt + max(chosen, rejected) for prompt, chosen, rejected in lengths)
    fitting = sum(length <= answer for length in whole)
    told = f"{fitting:,} of {len(whole):,} pairs fit into {answer} tokens, and {wanted:,} should"
    both = sorted(map(sum, lengths))[wanted - 1]
    one = sorted(prompt + chosen for prompt, chosen, _ in lengths)[wanted - 1]
    right = whole[wanted - 1]
    hint = {both: "the two answers are never in one row: take the longer of them", one: "rejected answers count, too"}
    if answer != right and answer in hint:
        told += f"; {hint[answer]}"
    assert fitting >= wanted, f"{told}. A pair fits if its prompt and the longer of its answers do."
    assert answer == right, f"{told}. It is enough, but so is a shorter window."
    return f"Right: {told}."


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
