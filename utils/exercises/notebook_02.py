"""The exercises of notebook 02: how long a near duplicate is, a source of one's own, and a filter of the mix."""

from utils.data.sources import Source, apply_rule
from utils.exercises.checks import exercise, function, number

MOST = 2.0  # times as long a chosen answer may be
HANDBOOK = [  # rows of a data set that the course does not know
    {"question": "Why do leaves fall?", "better": "To save water.", "worse": "They fall.", "stars": 5.0, "bot": False},
    {"question": "What is dew?", "better": "Water from the air.", "worse": "Rain.", "stars": 4.0, "bot": False},
    {"question": "Who eats owls?", "better": "Hardly anybody.", "worse": "Mice.", "stars": 3.0, "bot": False},
    {"question": "Is ice light?", "better": "Lighter than water.", "worse": "No.", "stars": None, "bot": False},
    {"question": "Can bees count?", "better": "Up to about four.", "worse": "Yes!", "stars": 5.0, "bot": True},
]


@exercise("a whole number of words")
def check_words(answer: int | None, similarity: float) -> str:
    """Check from how many words on a prompt with one changed word in its middle is a near duplicate."""
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


@exercise("a data.Source for the rows of the handbook")
def check_source(answer) -> str:
    """Check a `Source` for `HANDBOOK`, of which it should take rows with 4 stars or more that no bot wrote."""
    from datasets import Dataset

    assert isinstance(answer, Source), f"The answer is a data.Source(...), not {answer!r}."
    assert (answer.name, answer.repository) == ("handbook", "you/handbook-pairs"), (
        f"name and repository are 'handbook' and 'you/handbook-pairs', not {answer.name!r} and {answer.repository!r}."
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
    ledger = apply_rule(answer, Dataset.from_list(HANDBOOK))
    for row, taken in zip(HANDBOOK, ledger.reason.isna(), strict=True):
        wanted = row["stars"] is not None and row["stars"] >= 4 and not row["bot"]
        does = "takes" if taken else "leaves out"
        should = "should be taken" if wanted else "should be left out"
        assert taken == wanted, (
            f"Your rule, {answer.rule}, {does} a row that {should}: {row['stars']} stars, bot {row['bot']}."
        )
    return f"Right: {answer.rule}, {int(ledger.reason.isna().sum())} of {len(HANDBOOK)} rows are taken."


@exercise("a function that says of a line of the ledger whether it stays")
def check_filter(answer, ledger) -> str:
    """Check a filter that keeps pairs whose chosen answer has at most `MOST` times the tokens of the rejected one."""
    import numpy as np
    import pandas as pd

    keeps = function(answer, "Your function")
    edges = [(20, 10), (21, 10), (10, 20), (10, 21), (10, 10)]  # the data may not have them
    made = pd.DataFrame(edges, columns=["chosen_tokens", "rejected_tokens"])
    made = made.assign(source="made up", row=0, rating=5.0, prompt_tokens=30)
    lines = pd.concat([made, ledger.loc[ledger.reason.isna(), made.columns]], ignore_index=True)
    kept = 0
    for place, line in lines.iterrows():
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
        if place >= len(made):
            kept += bool(said)
    return f"Right: {kept:,} of {len(lines) - len(made):,} pairs of the mix stay."
