"""The checks of the exercises in notebook 00: the size of weights, other cards, the longest window."""

from dataclasses import replace
from types import SimpleNamespace

from utils import preflight
from utils.exercises.checks import choice, close, exercise, number
from utils.train import memory, profiles

CARDS = {  # GB (10^9 bytes) that CUDA reports, compute capability by NVIDIA's list
    "RTX 4090": (25.3, 8.9),
    "V100": (16.9, 7.0),
    "RTX 3060": (12.6, 8.6),
}


@exercise('{"bf16": ..., "4 bits": ...}, each in GB')
def check_size(answer: dict | None, model) -> str:
    """Check how many GB a model takes in bf16, and with the matrices of its layers in 4 bits."""
    asked = {"bf16", "4 bits"}
    assert isinstance(answer, dict) and set(answer) == asked, (
        f'Give a dictionary with "bf16" and "4 bits", not {answer!r}.'
    )
    for name in asked:
        number(answer[name], f"The size in {name}", least=0)
    weights, layers = model.num_parameters(), memory.count_weights(model, [])["layers"]
    whole, small = 2 * weights / 1e9, (0.5 * layers + 2 * (weights - layers)) / 1e9
    bits = "These are billions of bits: 8 of them make a byte."
    close(
        answer["bf16"], whole, "The size in bf16", why="bf16 has 2 bytes; 1 GB is 10^9 bytes.", slips={8 * whole: bits}
    )
    all_small = f"All weights in 4 bits: embeddings, head and norms, {weights - layers:,} weights, stay in bf16."
    why = "Half a byte for each weight of the layers' matrices, two bytes for each of the others."
    slips = {weights / 2e9: all_small}
    close(answer["4 bits"], small, "The size in 4 bits", relative=0.03, why=why, slips=slips)  # with the scales or not
    return f"Right: {whole:.1f} GB, and {small:.1f} GB, of which {2 * (weights - layers) / 1e9:.1f} GB stay in bf16."


@exercise('a profile and a dtype for each card, as in {"V100": ("a100", "float32"), ...}')
def check_cards(answer: dict | None) -> str:
    """Check which profile and dtype the course takes for cards that no profile names."""
    shaped = isinstance(answer, dict) and all(isinstance(it, tuple | list) and len(it) == 2 for it in answer.values())
    assert shaped, f"The answer is a dictionary of card and (profile, dtype), not {answer!r}."
    missing = [card for card in CARDS if card not in answer]
    assert not missing, f"Without a profile so far: {', '.join(missing)}."
    for card, (gigabytes, capability) in CARDS.items():
        profile, dtype = answer[card]
        choice(profile, profiles.PROFILES, f"The profile of the {card}")
        choice(dtype, memory.DTYPE_BYTES, f"The dtype of the {card}")
        right, _ = profiles.choose_profile(SimpleNamespace(kind="cuda", name=card, memory_gb=gigabytes))
        wanted = "bfloat16" if capability >= 8 else "float16"
        assert dtype == wanted, (
            f"{card}: not {dtype}, because bf16 is fast from compute capability 8.0 on: {capability}."
        )
        assert profile == right.name, (
            f"{card}: not {profile}. It has {gigabytes} GB: take the largest profile that its memory holds, or the "
            "smallest if none fits."
        )
    return f"Right: {', '.join(f'{card} {profile} in {dtype}' for card, (profile, dtype) in answer.items())}."


@exercise("a number of tokens, a multiple of 64")
def check_longest(answer: int | None, model, run) -> str:
    """Check the longest window of a run on an RTX 3060, with one pair in a pass, as the profile of the T4 has it."""
    number(answer, "The longest window", least=64, whole=True)
    assert answer % 64 == 0, f"{answer} is no multiple of 64: the nearest below is {answer // 64 * 64}."
    needed, more = [
        sum(memory.budgets(model, replace(run, max_length=length), {"t4": profiles.PROFILES["t4"]})["t4"].values())
        for length in (int(answer), int(answer) + 64)
    ]
    memory_gb = CARDS["RTX 3060"][0]
    room = preflight.ROOM["cuda"] * memory_gb
    told = f"{answer} tokens need {needed:.2f} GB, and {room:.2f} of {memory_gb} GB are usable"
    assert needed <= room, f"{told}: that does not fit."
    assert more > room, f"{told}. It fits, but so would 64 tokens more, with {more:.2f} GB."
    return f"Right: {told}, and 64 tokens more would need {more:.2f} GB."
