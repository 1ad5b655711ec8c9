"""The checks of the exercises in notebook 03: the weights that LoRA trains, and the window."""

import math

from utils import data
from utils.exercises.checks import close, exercise, number
from utils.train import base, memory


@exercise("a number of weights")
def check_trainable(answer: int | None, plan) -> str:
    """Check how many weights LoRA of the rank of a `train.Plan` trains on `q_proj` and `v_proj` alone."""
    skeleton, lora_r = plan.base.skeleton, plan.lora_r
    shapes = [tuple(m.weight.shape) for name, m in skeleton.named_modules() if name.endswith(("q_proj", "v_proj"))]
    if not shapes:
        return "This base model has no q_proj and v_proj: there is nothing to count. Try it on a Llama."
    number(answer, "The number of weights", least=1, whole=True)
    layers, right = len(shapes) // 2, lora_r * sum(map(sum, shapes))
    everywhere = memory.count_weights(skeleton, base.linear_layers(skeleton), lora_r)["lora"]
    slips = {
        right // layers: f"that is one layer of {layers}.",
        right // 2: "A and B are two matrices: one has r rows, the other r columns.",
        right // lora_r: f"that is rank 1, and the rank is {lora_r}.",
        sum(rows * columns for rows, columns in shapes): "these are the frozen weights.",
        lora_r * len(shapes) * 2 * max(map(max, shapes)): "v_proj is narrower than q_proj: look at its shape.",
        everywhere: "that is LoRA on all matrices of a layer.",
    }
    assert answer == right or answer not in slips, f"Not {answer:,}: {slips[answer]}"
    why = f"Each matrix of m rows and n columns gets r * (m + n) weights; here r is {lora_r}."
    close(answer, right, "The number of weights", relative=0, why=why)
    return f"Right: {right:,}, in {layers} layers with {shapes[0]} for q_proj and {shapes[1]} for v_proj."


@exercise("a whole number of tokens")
def check_window(answer: int | None, pairs, tokenizer, share: float = 0.75) -> str:
    """Check the smallest `MAX_LENGTH` into which a share of the pairs fits whole."""
    number(answer, "The window", least=1, whole=True)
    lengths = [data.pair_lengths(pair, tokenizer) for pair in pairs]
    wanted = math.ceil(share * len(lengths))
    whole = sorted(prompt + max(chosen, rejected) for prompt, chosen, rejected in lengths)
    slips = {
        sorted(map(sum, lengths))[wanted - 1]: "the two answers are never in one row: take the longer of them.",
        sorted(prompt + chosen for prompt, chosen, _ in lengths)[wanted - 1]: "rejected answers count, too.",
    }
    right, fitting = whole[wanted - 1], sum(length <= answer for length in whole)
    told = f"{fitting:,} of {len(whole):,} pairs fit into {answer} tokens, and {wanted:,} should."
    assert answer == right or answer not in slips, f"{told} Remember: {slips[answer]}"
    assert fitting >= wanted, f"{told} A pair fits if its prompt and the longer of its answers do."
    assert answer == right, f"{told} It is enough, but so is a smaller window."
    return f"Right: {told}"
