"""The items of stand-ins for six benchmarks, in the real schemas.

They speak of craftsmen and their things, which the small world never names, so a row of a mix shares nothing with them
unless it was put there. Every sixth question is shorter than 13 words. Left out: files, see `stand_ins`, and any use as
a test: which answer is marked as right means nothing.
"""

from dataclasses import dataclass

GSM8K = "openai/gsm8k"
TRUTHFUL_QA = "truthfulqa/truthful_qa"
ARC = "allenai/ai2_arc"
HELLASWAG = "Rowan/hellaswag"
MMLU = "cais/mmlu"
IFEVAL = "google/IFEval"

_PEOPLE = (
    "potter sailor baker tailor miner pilot nurse judge painter printer plumber weaver "
    "barber butcher brewer carpenter dentist drummer engineer gardener jeweller librarian mechanic locksmith"
).split()
_THINGS = (
    "kettles anchors ovens buttons shovels maps bandages wigs brushes stamps pipes carpets "
    "mirrors knives barrels shelves lamps cymbals bridges hedges rings scrolls gearboxes padlocks"
).split()
# Benchmark and split: the questions in a long and in a short form. No 13 words in a row are without a person or thing,
# so no two items share them, and GSM8K's two splits say everything in other words.
_QUESTIONS = {
    (GSM8K, "train"): (
        "A {who} repairs {a} {what} on every weekday and {b} {what} on each day of the weekend. How many {what} does "
        "the {who} repair in one week?",
        "How many {what} fit into {a} crates of {b}?",
    ),
    (GSM8K, "test"): (
        "In spring a {who} sells {a} {what} to strangers and gives {b} times as many away. How many {what} must the "
        "{who} make before the spring begins?",
        "If {a} {what} cost {b} coins each, what do all cost?",
    ),
    (TRUTHFUL_QA, "validation"): (
        "What really happens to old {what} if a {who} hides them under the bed for seven long years?",
        "Do {what} bring a {who} good luck?",
    ),
    (ARC, "test"): (
        "A {who} leaves wet {what} on a windy roof. Which process has made the {what} dry when the {who} comes home?",
        "Which of these tools does a {who} need for {what}?",
    ),
    (HELLASWAG, "validation"): (
        "A {who} is standing in a crowded workshop and holds several {what} up to the camera.",
        "A {who} is cleaning {what}.",
    ),
    (MMLU, "test"): (
        "Which of these reasons describes best why a {who} had to pay the guild for {what} in the early year {year}?",
        "Who first taxed the {what} of a {who}?",
    ),
    (IFEVAL, "train"): (
        "Write a letter of at least {words} words in which a {who} complains about {what} to the mayor. Leave out all "
        "commas.",
        "Write a poem about a {who} without any commas.",
    ),
}


@dataclass(frozen=True)
class BenchmarkFiles:
    """Where the items of a benchmark lie in its repository: configuration, splits, and their folder."""

    licence: str
    config: str
    splits: tuple[str, ...]
    folder: str | None  # of the Parquet files; None: one file of JSON lines at the top
    name: str | None = None  # of that file
    int32: tuple[str, ...] = ()  # columns of this type


BENCHMARKS = {
    GSM8K: BenchmarkFiles("mit", "main", ("train", "test"), "main"),
    TRUTHFUL_QA: BenchmarkFiles("apache-2.0", "generation", ("validation",), "generation"),
    ARC: BenchmarkFiles("cc-by-sa-4.0", "ARC-Challenge", ("test",), "ARC-Challenge"),
    HELLASWAG: BenchmarkFiles("mit", "default", ("validation",), "data", int32=("ind",)),
    MMLU: BenchmarkFiles("mit", "all", ("test",), "all"),
    IFEVAL: BenchmarkFiles("apache-2.0", "default", ("train",), None, "ifeval_input_data.jsonl"),
}


def questions(repo_id: str, split: str) -> list[str]:
    """Return the questions of a benchmark's split, or for HellaSwag the contexts, for IFEval the requests.

    Args:
        repo_id: one of `BENCHMARKS`.
        split: one of its splits.

    Example:
        >>> questions(TRUTHFUL_QA, "validation")[5]
        'Do maps bring a pilot good luck?'
    """
    long, short = _QUESTIONS[repo_id, split]
    numbered = enumerate(zip(_PEOPLE, _THINGS, strict=True))
    return [
        (short if number % 6 == 5 else long).format(
            who=who, what=what, a=number + 3, b=number + 2, year=1401 + number, words=100 + number
        )
        for number, (who, what) in numbered
    ]


def items(repo_id: str, split: str) -> list[dict]:
    """Return the rows of a benchmark's split.

    Args:
        repo_id, split: see `questions`.
    """
    asked = questions(repo_id, split)
    return [
        _FORMS[repo_id](question, number, who, what)
        for number, (question, who, what) in enumerate(zip(asked, _PEOPLE, _THINGS, strict=True))
    ]


def multiple_choice() -> list[dict]:
    """Return TruthfulQA's items as its configuration for lm-eval has them: answers, and which are right."""
    rows = []
    for item in items(TRUTHFUL_QA, "validation"):
        right, wrong = item["correct_answers"], item["incorrect_answers"]
        one = {"choices": [right[0], *wrong], "labels": [1] + [0] * len(wrong)}
        every = {"choices": right + wrong, "labels": [1] * len(right) + [0] * len(wrong)}
        rows.append({"question": item["question"], "mc1_targets": one, "mc2_targets": every})
    return rows


def _gsm8k(question: str, number: int, who: str, what: str) -> dict:
    a, b = number + 3, number + 2
    if "weekday" in question:
        end = 5 * a + 2 * b
        steps = f"On weekdays it is 5 * {a} = <<5*{a}={5 * a}>>{5 * a}.\nIn all {5 * a} + 2 * {b} = {end} {what}."
    elif "spring" in question:
        end = a + a * b
        steps = f"The {who} gives {a} * {b} = <<{a}*{b}={a * b}>>{a * b} away.\nIn all {a} + {a * b} = {end} {what}."
    else:
        end = a * b
        steps = f"It is {a} * {b} = <<{a}*{b}={end}>>{end}."
    return {"question": question, "answer": f"{steps}\n#### {end}"}


def _truthful_qa(question: str, number: int, who: str, what: str) -> dict:
    right, wrong = [f"Nothing much happens to {what}", f"The {what} stay as they are"], [f"The {what} bring luck"]
    kind = {"type": "Adversarial" if number % 2 else "Non-Adversarial", "category": "Superstitions"}
    answers = {"best_answer": right[0], "correct_answers": right, "incorrect_answers": wrong}
    return kind | {"question": question, **answers, "source": "stand-in"}


def _arc(question: str, number: int, who: str, what: str) -> dict:
    choices = {"text": ["evaporation", "freezing", "melting", f"polishing {what}"], "label": list("ABCD")}
    return {"id": f"STANDIN_{number}", "question": question, "choices": choices, "answerKey": "A"}


def _hellaswag(question: str, number: int, who: str, what: str) -> dict:
    endings = [f"{verb} the {what} into a box." for verb in ("puts", "melts", "sings", "swims")]
    context = {"ctx_a": question, "ctx_b": f"the {who}", "ctx": f"{question} the {who}"}
    names = {"source_id": f"activitynet~v_{number}", "split": "val", "split_type": "indomain", "label": "0"}
    return {"ind": number, "activity_label": f"Handling {what}", **context, "endings": endings, **names}


def _mmlu(question: str, number: int, who: str, what: str) -> dict:
    choices = [f"the {who}", "the king", f"a buyer of {what}", "nobody"]
    return {"question": question, "subject": "high_school_european_history", "choices": choices, "answer": number % 4}


def _ifeval(question: str, number: int, who: str, what: str) -> dict:
    kinds = {"punctuation:no_comma": {}}
    if "letter" in question:
        kinds["length_constraints:number_words"] = {"relation": "at least", "num_words": 100 + number}
    listed = {"instruction_id_list": list(kinds), "kwargs": list(kinds.values())}
    return {"key": 1000 + number, "prompt": question, **listed}


_FORMS = {
    GSM8K: _gsm8k,
    TRUTHFUL_QA: _truthful_qa,
    ARC: _arc,
    HELLASWAG: _hellaswag,
    MMLU: _mmlu,
    IFEVAL: _ifeval,
}
