"""The checks of the exercises in notebooks 00 and 02: memory and cards, words and sources, a filter of the mix.

Left out: the questions, which stand in the notebooks, and the way an answer is taken, see `exercises`.
"""

from dataclasses import replace
from types import SimpleNamespace

from utils import preflight
from utils.data import sources
from utils.exercises.checks import choice, close, exercise, function, number
from utils.train import memory, profiles

CARDS = {  # GB (10^9 bytes) that CUDA reports, compute capability by NVIDIA's list
    "RTX 4090": (25.3, 8.9),
    "V100": (16.9, 7.0),
    "RTX 3060": (12.6, 8.6),
}
MOST = 2.0  # times as long a chosen answer may be
HANDBOOK = [  # rows of a data set that the course does not know
    {"question": "Why do leaves fall?", "better": "To save water.", "worse": "They fall.", "stars": 5.0, "bot": False},
    {"question": "What is dew?", "better": "Water from the air.", "worse": "Rain.", "stars": 4.0, "bot": False},
    {"question": "Who eats owls?", "better": "Hardly anybody.", "worse": "Mice.", "stars": 3.0, "bot": False},
    {"question": "Is ice light?", "better": "Lighter than water.", "worse": "No.", "stars": None, "bot": False},
    {"question": "Can bees count?", "better": "Up to about four.", "worse": "Yes!", "stars": 5.0, "bot": True},
]


@exercise('{"bf16": ..., "4 bits": ...}, each in GB')
def check_size(answer: dict | None, model) -> str:
    """Check how many GB (10^9 bytes) a model takes in bf16, and with the matrices of its layers in 4 bits.

    Args:
        answer: "bf16" and "4 bits" -> GB, or `None` before it is tried.
        model: the base, or its `utils.train.base.skeleton`.

    Raises:
        AssertionError: saying which of the usual slips it looks like.
    """
    asked = ("bf16", "4 bits")
    shaped = isinstance(answer, dict) and set(answer) == set(asked)
    assert shaped, f'The answer is a dictionary with "bf16" and "4 bits", not {answer!r}.'
    for name in asked:
        number(answer[name], f"The size in {name}", least=0)
    weights, layers = model.num_parameters(), memory.count_weights(model, [])["layers"]
    whole, small = 2 * weights / 1e9, (0.5 * layers + 2 * (weights - layers)) / 1e9
    assert abs(answer["bf16"] / 8 - whole) > 0.05 * whole, "These are billions of bits: 8 of them make a byte."
    close(answer["bf16"], whole, "The size in bf16", why="bf16 has 16 bits, which are 2 bytes; 1 GB is 10^9 bytes.")
    assert abs(answer["4 bits"] - weights / 2e9) > 0.02 * weights / 2e9, (
        f"{answer['4 bits']:g} GB would be all weights in 4 bits. Embeddings, head and norms, {weights - layers:,} "
        "weights, stay in bf16."
    )
    why = "Half a byte for each weight of the layers' matrices, two bytes for each of the others."
    close(answer["4 bits"], small, "The size in 4 bits", relative=0.03, why=why)  # with the scales or without them
    return f"Right: {whole:.1f} GB, and {small:.1f} GB, of which {2 * (weights - layers) / 1e9:.1f} GB stay in bf16."


@exercise('a profile and a dtype for each card, as in {"V100": ("a100", "float32"), ...}')
def check_cards(answer: dict | None) -> str:
    """Check which profile and dtype the course takes for cards that no profile names.

    Args:
        answer: card of `CARDS` -> (profile, dtype), or `None` before it is tried.

    Raises:
        AssertionError: naming the card and what decides.
    """
    shaped = isinstance(answer, dict) and all(isinstance(it, tuple | list) and len(it) == 2 for it in answer.values())
    assert shaped, f"The answer is a dictionary of card and (profile, dtype), not {answer!r}."
    missing = [card for card in CARDS if card not in answer]
    assert not missing, f"Without a profile so far: {', '.join(missing)}."
    told = []
    for card, (gigabytes, capability) in CARDS.items():
        profile, dtype = answer[card]
        choice(profile, profiles.PROFILES, f"The profile of the {card}")
        choice(dtype, memory.DTYPE_BYTES, f"The dtype of the {card}")
        right, why = profiles.choose_profile(SimpleNamespace(kind="cuda", name=card, memory_gb=gigabytes))
        wanted = "bfloat16" if capability >= 8 else "float16"
        has = "has bf16 units" if capability >= 8 else "has no bf16 units, which come with 8.0: it computes in fp16"
        assert dtype == wanted, f"{card}: not {dtype}, for compute capability {capability} {has}."
        made_for = profiles.PROFILES[profile].memory_gb
        assert profile == right.name, (
            f"{card}: not {profile}, which is for {f'{made_for} GB' if made_for else 'a CPU'}. It has {gigabytes} GB: "
            "take the largest profile that its memory holds, or the smallest if none fits."
        )
        told.append(f"{card} {right.name} in {dtype} ({why})")
    return f"Right: {'; '.join(told)}."


@exercise("a number of tokens, a multiple of 64")
def check_longest(answer: int | None, model, recipe) -> str:
    """Check the longest `max_length` at which a base trains on an RTX 3060, by the stock trainer, in the T4's passes.

    Args:
        answer: tokens, or `None` before it is tried.
        model: the base, or its `utils.train.base.skeleton`.
        recipe: a `utils.train.recipes.Recipe`.

    Raises:
        AssertionError: saying what so many tokens would need.
    """
    number(answer, "The longest window", least=64, whole=True)
    assert answer % 64 == 0, f"{answer} is no multiple of 64: the nearest below is {answer // 64 * 64}."
    needed, more = [
        sum(memory.budgets(model, replace(recipe, max_length=length), {"t4": profiles.PROFILES["t4"]})["t4"].values())
        for length in (int(answer), int(answer) + 64)
    ]
    memory_gb = CARDS["RTX 3060"][0]
    usable = preflight.ROOM["cuda"] * memory_gb
    told = f"{answer} tokens need {needed:.2f} GB, and {usable:.2f} of {memory_gb} GB are usable"
    assert needed <= usable, f"{told}: that does not fit."
    assert more > usable, f"{told}. It fits, but so would 64 tokens more, with {more:.2f} GB."
    return f"Right: {told}, and 64 tokens more would need {more:.2f} GB."


@exercise("a whole number of words")
def check_words(answer: int | None, similarity: float) -> str:
    """Check from how many words on a prompt with one changed word in its middle is a near duplicate.

    Args:
        answer: words, or `None` before it is tried.
        similarity: Jaccard, of the sets of 5-word runs.

    Raises:
        AssertionError: with the similarity at that number of words.
    """
    number(answer, "The number of words", least=9, whole=True)  # fewer have no middle with five runs around it
    shared, union = int(answer) - 9, int(answer) + 1
    jaccard = shared / union
    told = (
        f"{answer} words have {answer - 4} runs; 5 change on each side, {shared} of {union} are shared: {jaccard:.4g}"
    )
    assert jaccard >= similarity, f"{told}, which is below {similarity:g}."
    fewer = (shared - 1) / (union - 1)
    assert fewer < similarity, f"{told}. That is enough, but {answer - 1} words are, too."
    return f"Right: {told}."


@exercise("a sources.Source for the rows of the handbook")
def check_source(answer) -> str:
    """Check a `Source` for `HANDBOOK`, of which it should take rows with 4 stars or more that no bot wrote.

    Args:
        answer: `utils.data.sources.Source`, or `None` before it is tried.

    Raises:
        AssertionError: naming the field, or the row that it takes or leaves by mistake.
    """
    from datasets import Dataset

    assert isinstance(answer, sources.Source), f"The answer is a sources.Source(...), not {answer!r}."
    named = (answer.name, answer.repository)
    assert named == ("handbook", "you/handbook-pairs"), (
        f"name and repository are 'handbook' and 'you/handbook-pairs', not {named[0]!r} and {named[1]!r}."
    )
    if answer.at_least is not None:
        number(answer.at_least, "at_least")
    columns = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    assert answer.columns != {theirs: ours for ours, theirs in columns.items()}, (
        f"columns={answer.columns} is the wrong way round: what the course calls it comes first."
    )
    assert answer.columns == columns, (
        f"columns={answer.columns} does not say where prompt, chosen and rejected are: the rows have "
        f"{', '.join(HANDBOOK[0])}."
    )
    strange = [column for column in answer.needs if column not in HANDBOOK[0]]
    assert not strange, f"The rows have no column {strange[0]!r}: they have {', '.join(HANDBOOK[0])}."
    ledger = sources.apply_rule(answer, Dataset.from_list(HANDBOOK))
    for row, reason in zip(HANDBOOK, ledger.reason.isna(), strict=True):
        wanted = row["stars"] is not None and row["stars"] >= 4 and not row["bot"]
        does = "takes" if reason else "leaves out"
        should = "should be taken" if wanted else "should be left out"
        assert reason == wanted, (
            f"Your rule, {answer.rule}, {does} a row that {should}: {row['stars']} stars, bot {row['bot']}."
        )
    return f"Right: {answer.rule}, {int(ledger.reason.isna().sum())} of {len(HANDBOOK)} rows are taken."


@exercise("a function that says of a line of the ledger whether it stays")
def check_filter(answer, ledger) -> str:
    """Check a filter that keeps pairs whose chosen answer has at most `MOST` times the tokens of the rejected one.

    Args:
        answer: function of a line of the ledger, or `None` before it is tried.
        ledger: of `utils.data.mix.enter`; only lines without a reason are asked for.

    Raises:
        AssertionError: with the tokens of the first line that it keeps or drops by mistake.
    """
    import numpy as np
    import pandas as pd

    keeps = function(answer, "Your function")
    edges = [(20, 10), (21, 10), (10, 20), (10, 21), (10, 10)]  # the data may not have them
    made = pd.DataFrame(edges, columns=["chosen_tokens", "rejected_tokens"])
    made = made.assign(source="made up", row=0, rating=5.0, prompt_tokens=30)
    lines = pd.concat([made, ledger.loc[ledger.reason.isna(), made.columns]], ignore_index=True)
    kept = 0
    for _, line in lines.iterrows():
        said, chosen, rejected = keeps(line), line.chosen_tokens, line.rejected_tokens
        told = f"chosen with {chosen:g} tokens, rejected with {rejected:g}"
        assert isinstance(said, bool | np.bool_), (
            f"Your function returns {said!r} for {told}, and should say True or False."
        )
        wanted = chosen <= MOST * rejected
        should = "stay" if wanted else "go"
        assert bool(said) == wanted, (
            f"Your function is wrong for {told}: {chosen / rejected:.3g} times as long, and {MOST:g} is the most, so "
            f"it should {should}."
        )
        kept += bool(said)
    kept -= int((made.chosen_tokens <= MOST * made.rejected_tokens).sum())
    return f"Right: {kept:,} of {len(lines) - len(made):,} pairs of the mix stay."
