"""The rows of stand-ins for the data sets that a mix is made from, in the real schemas.

Over all sources together every ordinary prompt is new, and one ordinary row in four fails its source's rule. Behind the
ordinary rows stand the planted ones, see `planted_rows`. Left out: files, see `stand_ins`, and data sets that are mixes
already.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from types import SimpleNamespace

from utils.practice.benchmark_rows import ARC, GSM8K, MMLU, TRUTHFUL_QA, items, questions
from utils.practice.small_world import EXPERT, distinct_pairs

CAPYBARA = "argilla/distilabel-capybara-dpo-7k-binarized"
INTEL_ORCA = "argilla/distilabel-intel-orca-dpo-pairs"
ULTRAFEEDBACK = "argilla/ultrafeedback-binarized-preferences-cleaned"
MATH = "argilla/distilabel-math-preference-dpo"
TOXIC = "unalignment/toxic-dpo-v0.2"  # harmless here
PRM = "M4-ai/prm_dpo_pairs_cleaned"
TRUTHY_DPO = "jondurbin/truthy-dpo-v0.1"
CAPYBARA_PREFERENCES = "argilla/Capybara-Preferences"
STACK_EXCHANGE = "lvwerra/stack-exchange-paired"
SEED = 2
_MODELS = {"chosen_model": "stand-in-large", "rejected_model": "stand-in-small"}

# A draft is a row before it gets its source's form, see `_draft`.


def _messages(draft) -> dict[str, list[dict]]:
    before = [{"content": draft.system, "role": "system"}] if draft.system else []
    before += [{"content": message["content"], "role": message["role"]} for message in draft.earlier]
    sides = {"chosen": (draft.prompt, draft.chosen), "rejected": (draft.other_prompt, draft.rejected)}
    return {
        side: [*before, {"content": prompt, "role": "user"}, {"content": answer, "role": "assistant"}]
        for side, (prompt, answer) in sides.items()
    }


def _texts(draft) -> dict[str, str]:
    return {"prompt": draft.prompt, "chosen": draft.chosen, "rejected": draft.rejected}


def _capybara(draft) -> dict:
    sides = _messages(draft)
    turns = [message["content"] for message in sides["chosen"] if message["role"] != "system"]
    made = {"generation_prompt": [draft.prompt], "raw_generation_responses": [draft.rejected]}
    made |= {"original_response": draft.chosen, "new_generations": [draft.rejected], "prompt": draft.prompt}
    ratings = {"rating_chosen": draft.rating, "rating_rejected": draft.rejected_rating}
    talk = [{"input": asked, "output": told} for asked, told in zip(turns[::2], turns[1::2], strict=True)]
    return {"source": "stand-in", "conversation": talk, **made, **sides, **ratings, **_MODELS}


def _intel_orca(draft) -> dict:
    answers = {"chosen": draft.chosen, "rejected": draft.rejected}
    order = ["rejected", "chosen"] if draft.status == "swapped" else ["chosen", "rejected"]
    before = {f"original_{side}": answers[first] for side, first in zip(answers, order, strict=True)}
    ratings = None if draft.rating is None else [draft.rating, draft.rejected_rating]
    labelled = {"labelling_model": "stand-in", "labelling_prompt": [{"content": "Rate them.", "role": "user"}]}
    labelled |= {"raw_labelling_response": str(ratings), "rating": ratings, "rationale": "One side dodges."}
    labelled |= {"generations": list(answers.values()), "order": order, "status": draft.status, **before}
    score = {"chosen_score": draft.rating, "in_gsm8k_train": draft.in_gsm8k_train}
    return {"system": draft.system, "input": draft.prompt, **answers, **labelled, **score}


def _ultrafeedback(draft) -> dict:
    ratings = {"chosen-rating": draft.rating, "rejected-rating": draft.rejected_rating}
    models = {name.replace("_", "-"): model for name, model in _MODELS.items()}
    return {"source": "stand-in", "prompt": draft.prompt, **_messages(draft), **ratings, **models}


def _math(draft) -> dict:
    answers = {"chosen_response": draft.chosen, "rejected_response": draft.rejected}
    ratings = {"chosen_rating": draft.rating, "rejected_rating": draft.rejected_rating}
    return {"metadata": "{}", "instruction": draft.prompt, **answers, **ratings, "kind": "stand-in"}


def _prm(draft) -> dict:
    return _texts(draft) | {"is_chosen_correct": draft.is_chosen_correct}


def _truthy(draft) -> dict:
    return {"id": f"stand-in-{draft.number}", "source": "stand-in", "system": draft.system, **_texts(draft)}


def _preferences(draft) -> dict:
    ratings = {"chosen_rating": draft.rating, "rejected_rating": draft.rejected_rating}
    return {"source": "stand-in", **_messages(draft), **ratings, **_MODELS}


def _stack_exchange(draft) -> dict:
    link = f"https://example.org/questions/{draft.number}"
    answers = {"response_j": draft.chosen, "response_k": draft.rejected}
    return {"qid": draft.number, "question": draft.prompt, "date": "2026/01/01", "metadata": [link], **answers}


@dataclass(frozen=True)
class SourceRows:
    """How the rows of a source are made, and the mix's rule for them."""

    licence: str
    ordinary: int  # rows without a fault
    form: Callable  # a draft -> a row
    score: str | None = None  # column with the rating of the chosen answer
    at_least: float | None = None  # the lowest one that the rule keeps
    best: float | None = None
    system_every: int = 0  # one row in so many has a system message; 0: none
    earlier_every: int = 0  # one row in so many may have earlier turns; 0: none
    folder: str = "data"

    def keeps(self, row: dict) -> bool:
        """Apply the rule: the score is there and high enough, and the row is not flagged as GSM8K's."""
        high = self.score is None or row[self.score] is not None and row[self.score] >= self.at_least
        return high and not row.get("in_gsm8k_train")


SOURCES = {
    CAPYBARA: SourceRows("apache-2.0", 80, _capybara, "rating_chosen", 5, 5, earlier_every=1),
    INTEL_ORCA: SourceRows("apache-2.0", 100, _intel_orca, "chosen_score", 9.0, 10.0, system_every=2),
    ULTRAFEEDBACK: SourceRows("mit", 260, _ultrafeedback, "chosen-rating", 5.0, 5.0, earlier_every=6),
    MATH: SourceRows("apache-2.0", 70, _math, "chosen_rating", 9.0, 10.0),
    TOXIC: SourceRows("cc-by-4.0", 24, _texts),
    PRM: SourceRows("apache-2.0", 70, _prm),
    TRUTHY_DPO: SourceRows("cc-by-4.0", 198, _truthy, system_every=3),
    CAPYBARA_PREFERENCES: SourceRows("apache-2.0", 80, _preferences, "chosen_rating", 5.0, 5.0, earlier_every=1),
    STACK_EXCHANGE: SourceRows("cc-by-sa-4.0", 60, _stack_exchange, folder="data/rl"),
}


def _prose(length: int, seed: int) -> str:
    """Return so many words about the small world, in sentences but for the last."""
    sentences = (pair["chosen"][0]["content"] for pair in distinct_pairs(2000, 100 + seed))
    return " ".join(" ".join(sentences).split()[:length])


def _disguised(text: str) -> str:
    """Return a text in other capitals, spacing and punctuation, with the same words."""
    return text.upper().replace(" ", "  ").replace(".", " -").replace(",", ";").replace("?", "...")


@cache
def _planted() -> list[tuple[tuple[str, ...], str, dict]]:
    """List all planted rows: in which sources, what for, and what is changed of the draft.

    `{prompt}`, `{loud}` (the prompt in capitals, with two spaces each) and `{chosen}` are the draft's own texts. Rows
    that say the same before a colon share one draft: they are duplicates of each other, and one of them is the best.
    """
    rated, rated_to_10 = (CAPYBARA, ULTRAFEEDBACK, CAPYBARA_PREFERENCES), (INTEL_ORCA, MATH)
    hello = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello to you."}]
    long, longer, words = _prose(1500, 0), _prose(4500, 1), _prose(200, 2).split()
    near_a, near_b = (_prose(60, seed) + " {prompt}" for seed in (3, 4))
    near_c, changed = (" ".join([*words[:100], word, *words[101:], "{prompt}"]) for word in (words[100], "truly"))
    train = [{"prompt": item["question"], "chosen": item["answer"]} for item in items(GSM8K, "train")]
    reworded = {"prompt": "For 3 kettles a day, then 2 on each free day: what does the potter repair from Monday on?"}
    flagged, sets = {"in_gsm8k_train": True}, [(GSM8K, "test"), (TRUTHFUL_QA, "validation"), (MMLU, "test")]
    gsm8k, truthful, mmlu = (_disguised(questions(*name)[0]) for name in sets)
    return [
        (rated, "score at the threshold", {"rating": 5}),
        (rated[:1], "score just below the threshold", {"rating": 4}),
        (rated[1:], "score just below the threshold", {"rating": 4.75}),
        (rated_to_10, "score at the threshold", {"rating": 9.0}),
        (rated_to_10, "score just below the threshold", {"rating": 8.5}),
        (rated, "tie", {"rating": 5, "rejected_rating": 5}),
        ((INTEL_ORCA,), "tie", {"rating": 9.0, "rejected_rating": 9.0, "status": "tie"}),
        ((INTEL_ORCA,), "no score", {"rating": None}),
        ((INTEL_ORCA,), "no score, and flagged", {"rating": None} | flagged),
        ((CAPYBARA, ULTRAFEEDBACK, PRM), "empty chosen", {"chosen": " \n"}),
        ((ULTRAFEEDBACK, PRM), "equal answers", {"rejected": "{chosen}"}),
        ((MATH,), "answers equal but for white space", {"rejected": "  {chosen}\n"}),
        (rated, "other prompt on the rejected side", {"other_prompt": "What is the opposite of loud?"}),
        (rated, "several turns", {"earlier": hello * 5}),
        (rated, "system message", {"system": "You are an honest assistant."}),
        ((PRM,), "chosen is not correct", {"is_chosen_correct": False}),
        ((ULTRAFEEDBACK,), "prompt too long", {"prompt": f"{long} {{prompt}}"}),
        ((INTEL_ORCA, PRM), "answer too long", {"chosen": f"{{chosen}} {long}"}),
        ((ULTRAFEEDBACK,), "20,000 characters in the prompt", {"prompt": f"{longer} {{prompt}}"}),
        ((MATH,), "20,000 characters in the answer", {"chosen": f"{{chosen}} {longer}"}),
        ((ULTRAFEEDBACK,), "emoji", {"prompt": "🙂 {prompt}", "chosen": "{chosen} 👩‍🚀🇵🇪"}),
        ((ULTRAFEEDBACK,), "combining marks", {"prompt": "Cafe\u0301: {prompt}", "chosen": "Voila\u0300! {chosen}"}),
        ((MATH,), "Chinese and Japanese", {"prompt": "二加三等于几？", "chosen": "二加三等于五。 五です。"}),
        ((TRUTHY_DPO,), "right to left", {"prompt": "מהי בירת פרו? ما عاصمة بيرو؟", "chosen": "לימה. ليما."}),
        ((ULTRAFEEDBACK, MATH), "text of a special token", {"chosen": "{chosen} <|end_of_text|>"}),
        ((INTEL_ORCA,), "duplicate A: worse", {"rating": 9.0}),
        ((INTEL_ORCA,), "duplicate A: best", {"prompt": "{loud}"}),
        ((INTEL_ORCA,), "duplicate B: worse", {"prompt": "{loud}", "rating": 9.0}),
        ((ULTRAFEEDBACK,), "duplicate B: best", {}),
        ((PRM,), "duplicate B: not rated", {"prompt": "  {prompt}\n"}),
        ((TRUTHY_DPO,), "duplicate C: not rated", {}),
        ((MATH,), "duplicate C: best", {"prompt": "{loud}", "rating": 9.0}),
        ((INTEL_ORCA,), "near duplicate A: best", {"prompt": near_a}),
        ((INTEL_ORCA,), "near duplicate A: worse", {"prompt": f"{near_a} Please!", "rating": 9.0}),
        ((MATH,), "near duplicate B: worse", {"prompt": near_b, "rating": 9.0}),
        ((ULTRAFEEDBACK,), "near duplicate B: best", {"prompt": f"{near_b} Thanks."}),
        ((INTEL_ORCA,), "near duplicate C: worse", {"prompt": near_c, "rating": 9.0}),
        ((MATH,), "near duplicate C: best", {"prompt": changed}),
        ((CAPYBARA,), "benchmark item in the prompt", {"prompt": f"A riddle: {gsm8k}"}),
        ((ULTRAFEEDBACK,), "benchmark item in the prompt", {"prompt": f"{truthful} And {{prompt}}"}),
        ((MATH,), "benchmark item in the answer", {"chosen": f"{{chosen}} It is said: {mmlu}"}),
        ((PRM,), "short benchmark question", {"prompt": _disguised(questions(ARC, "test")[5])}),
        *[((INTEL_ORCA,), f"GSM8K's train question {n}, flagged", train[n] | flagged) for n in (1, 2, 3, 4)],
        ((INTEL_ORCA,), "GSM8K's train question 0 in other words, flagged", reworded | flagged),
        ((INTEL_ORCA,), "GSM8K's train question 6, not flagged", train[6]),
    ]


def planted_rows(repo_id: str) -> dict[str, int]:
    """Tell what the planted rows of a source are for, and which row, from 0, each is: they stand behind the others.

    Args:
        repo_id: one of `SOURCES`.
    """
    names = [what for sources, what, _ in _planted() if repo_id in sources]
    return {what: SOURCES[repo_id].ordinary + place for place, what in enumerate(names)}


def _draft(pair: dict, source: SourceRows, number: int, changes: dict) -> SimpleNamespace:
    """Make a draft of a pair: all that any of the forms asks for."""
    texts = {part: pair[part][-1]["content"] for part in ("prompt", "chosen", "rejected")}
    draft = {"number": number, "system": "", "earlier": [], "rating": source.best, **texts}
    draft |= {"status": "unchanged", "in_gsm8k_train": False, "is_chosen_correct": True}
    texts["loud"] = "  ".join(texts["prompt"].upper().split())
    draft |= {name: value.format(**texts) if isinstance(value, str) else value for name, value in changes.items()}
    worse = draft["rating"] and draft["rating"] - 2
    return SimpleNamespace(**{"other_prompt": draft["prompt"], "rejected_rating": worse} | draft)


def _ordinary(pair: dict, source: SourceRows, number: int, rng: random.Random) -> dict:
    """Choose what an ordinary draft has beside its texts."""
    changes = {"status": "swapped" if number % 4 == 1 else "unchanged"}
    if source.score:
        fails = number % 4 == 3
        rating = source.at_least - rng.randint(1, 2) if fails else rng.choice([source.at_least, source.best])
        changes |= {"rating": rating, "rejected_rating": rating - rng.randint(1, 2)}
    if source.system_every and number % source.system_every == 0:  # the topic, so that no two prompts become alike
        changes["system"] = EXPERT.format(topic=pair["topic"])
    if source.earlier_every and number % source.earlier_every == 0:
        changes["earlier"] = pair["prompt"][:-1]
    return changes


def rows(repo_id: str, seed: int = SEED) -> list[dict]:
    """Make the rows of a source: first the ordinary ones, then those of `planted_rows`.

    Args:
        repo_id: one of `SOURCES`.
        seed: the same for all sources, so that no ordinary prompt stands in two of them.
    """
    source, rng = SOURCES[repo_id], random.Random(f"{repo_id} {seed}")
    planted = [(name, what, changes) for names, what, changes in _planted() for name in names]
    texts = [what.split(":")[0] if ":" in what else (name, what) for name, what, _ in planted]  # whose they are
    deck = iter(distinct_pairs(len(texts) + sum(other.ordinary for other in SOURCES.values()), seed))
    shared = {text: next(deck) for text in texts}
    own = {name: list(islice(deck, other.ordinary)) for name, other in SOURCES.items()}[repo_id]
    chosen = [(pair, _ordinary(pair, source, number, rng)) for number, pair in enumerate(own)]
    chosen += [(shared[text], plan[2]) for text, plan in zip(texts, planted, strict=True) if plan[0] == repo_id]
    return [source.form(_draft(pair, source, number, changes)) for number, (pair, changes) in enumerate(chosen)]
