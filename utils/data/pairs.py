"""From a row of any published form to a judged pair, on the side that the hash of its prompt decides.

A pair is `{"source": str, "prompt": [messages], "chosen": [assistant message], "rejected": [assistant message]}`.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from utils.data import chat_format
from utils.environment import course_prompts

FORMS = r"""A pair has one of four forms:
1. message lists: chosen and rejected are [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}];
2. message lists with a prompt column, which is a message list or text, and answers of one message or the whole talk;
3. plain text: prompt, chosen and rejected are strings, and system may be one;
4. transcripts: chosen and rejected are strings like "\n\nHuman: ...\n\nAssistant: ..."."""
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class NotAPair(ValueError):
    """A row of a known form whose two sides are not answers to one question; the message is the reason."""


def to_pair(row: dict) -> dict:
    """Bring a row of one of the four `FORMS` into the course's form: the prompt is all before the last assistant turn.

    Raises `NotAPair` if the two sides do not answer one prompt, and `ValueError` for another form, naming the column.

    Example:
        >>> row = {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}
        >>> to_pair(row)["prompt"]
        [{'role': 'user', 'content': 'Hi'}]
    """
    chosen, rejected = _conversation(row, "chosen"), _conversation(row, "rejected")
    if not chosen[-1]["role"] == rejected[-1]["role"] == "assistant":
        raise NotAPair("does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        raise NotAPair("prompts of the two sides differ")
    if len(chosen) < 2 or chosen[-2]["role"] != "user" or not chosen[-2]["content"].strip():
        raise NotAPair("no question before the answer")
    return {"source": _source_of(row), "prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def _conversation(row: dict, side: str) -> list[dict]:
    """Read one side of a row as a list of messages, with the prompt in front."""
    prompt, answer = row.get("prompt"), row.get(side)
    if isinstance(answer, str):
        text = answer if not _is_transcript(prompt) or answer.startswith(prompt) else prompt + answer
        if _is_transcript(text):
            return _turns(text)
        if prompt is None and "prompt" in row:
            raise _refusal(row, "prompt", "is None")
        if prompt is None:
            raise _refusal(row, side, "is plain text that is no transcript, and there is no column prompt")
        answer = [{"role": "assistant", "content": answer}]
    messages = _messages(row, side, answer)
    if isinstance(prompt, str):
        if len(messages) > 1:
            return messages  # the whole conversation: the prompt repeats its question
        system = row.get("system")
        before = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
        return [*before, {"role": "user", "content": prompt}, *messages]
    given = _messages(row, "prompt", prompt) if prompt is not None else []
    return messages if messages[: len(given)] == given else given + messages


def _messages(row: dict, column: str, value) -> list[dict]:
    if not isinstance(value, list) or not value:
        raise _refusal(row, column, f"is {value!r:.100}")
    for message in value:
        fields = [message.get(key) for key in ("role", "content")] if isinstance(message, dict) else [None]
        if not all(isinstance(text, str) for text in fields):
            raise _refusal(row, column, f"holds {message!r:.100}, not a role and a content that are text")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _is_transcript(text) -> bool:
    return isinstance(text, str) and text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def _turns(transcript: str) -> list[dict]:
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", "\n\n" + transcript.lstrip())[1:]
    return [
        {"role": _SPEAKERS[speaker], "content": text.strip()}
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def _refusal(row: dict, column: str, what: str) -> ValueError:
    found = what if column in row else "is missing"
    return ValueError(f"column {column} {found}. The row has the columns {', '.join(sorted(row))}. {FORMS}")


def _source_of(row: dict) -> str:
    return str(row.get("source") or row.get("dataset") or "unnamed")


def prompt_hash(pair: dict) -> float:
    """Map a prompt to a number in [0, 1) that depends on its words alone, not on case or spacing."""
    text = " ".join(" ".join(message["content"] for message in pair["prompt"]).lower().split())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def judge_pair(pair: dict, tokenizer, max_length: int, truncate_answers: bool = False) -> str | None:
    """Say why a pair cannot be trained on, or return `None` if it can."""
    problem = text_problem(pair, tokenizer)
    return problem or chat_format.length_problem(pair, tokenizer, max_length, truncate_answers)


def text_problem(pair: dict, tokenizer) -> str | None:
    """Say what is wrong with a pair whatever its length, or return `None`."""
    problem = answer_problem(pair) or chat_format.special_text_problem(pair, tokenizer)
    if problem is None and pair["prompt"][-1]["content"].strip() in _course_prompts():
        return "asked by the course"
    return problem


_course_prompts = cache(course_prompts)


def answer_problem(pair: dict) -> str | None:
    """Say why the two answers of a pair cannot teach a preference, or return `None` if they can."""
    chosen, rejected = (pair[side][0]["content"].strip() for side in ("chosen", "rejected"))
    if not chosen or not rejected:
        return "empty answer"
    return "equal answers" if chosen == rejected else None


@dataclass(frozen=True)
class DataReport:
    """Where pairs come from, and the ledger: every row examined is kept in a split, or has the reason for which not."""

    ledger: object  # pandas.DataFrame with source, row, split, reason, and prompt, which is its beginning
    origin: dict = field(default_factory=dict)  # dataset, commit, host, licence, and mix, the report of notebook 02

    def as_dict(self) -> dict:
        """Return the account ready for JSON."""
        dropped = self.ledger[self.ledger.reason.notna()]
        return self.origin | {
            "examined": len(self.ledger),
            "kept": self.ledger.split.value_counts().to_dict(),
            "dropped": dropped.reason.value_counts().to_dict(),
            "examples": dropped.drop_duplicates("reason").set_index("reason").prompt.to_dict(),
        }

    def __str__(self) -> str:
        told = self.as_dict()
        lines = [f"examined {told['examined']:>6}"]
        lines += [f"kept     {count:>6}  {split}" for split, count in told["kept"].items()]
        for reason, count in told["dropped"].items():
            lines.append(f"dropped  {count:>6}  {reason}, e.g. {told['examples'][reason]!r}")
        return "\n".join(lines)


def split_pairs(
    rows, num_train: int | None, num_eval: int, judge: Callable[[dict], str | None], seed: int = 42, eval_rows=None
):
    """Choose pairs to train and to evaluate on, so that no prompt is on both sides.

    Rows are examined in a seeded random order until there are enough; `num_train=None` takes all. The hash of its
    prompt decides a pair's side; of small data at most a fifth is held out. With `eval_rows`, those of a test split,
    all of `rows` may be trained on. Returns (`DatasetDict` with train and test, `DataReport`). Raises `ValueError` for
    a row of no known form, or if a side is empty, with the account.
    """
    import numpy as np
    import pandas as pd
    from datasets import Dataset, DatasetDict
    from tqdm.auto import tqdm

    wanted = {"train": len(rows) if num_train is None else num_train, "test": num_eval}
    share = 0.0 if eval_rows is not None else min(num_eval / max(1, min(sum(wanted.values()), len(rows))), 0.2)
    chosen, lines, tested = {"train": [], "test": []}, [], set()
    parts = {"test": eval_rows or [], "train": rows}
    order = []
    for part, data in parts.items():
        order += [(part, number) for number in np.random.default_rng(seed).permutation(len(data)).tolist()]
    for part, number in tqdm(order, desc="Choosing pairs", leave=False):
        if all(len(chosen[side]) >= wanted[side] for side in chosen):
            break
        line = {"source": _source_of(parts[part][number]), "row": number, "split": None, "reason": None}
        pair, text, line["reason"] = _read(parts[part][number], f"Row {number} (counted from 0) of {part}")
        place = prompt_hash(pair) if pair else 1.0
        side = "test" if part == "test" or place < share else "train"
        if len(chosen[side]) >= wanted[side]:
            continue
        if side == "train" and place in tested:
            line["reason"] = "prompt is evaluated on"
        line["reason"] = line["reason"] or judge(pair)
        if line["reason"] is None:
            line["split"] = side
            chosen[side].append(pair)
            if side == "test":
                tested.add(place)
        lines.append(line | {"prompt": text[:80]})
    report = DataReport(pd.DataFrame(lines, columns=["source", "row", "split", "reason", "prompt"]).astype(object))
    for side, purpose in (("train", "train"), ("test", "evaluate")):
        if not chosen[side]:
            raise ValueError(
                f"No pair is left to {purpose} on, for the reasons below: raise MAX_LENGTH if pairs are too long, "
                f"otherwise repair the rows or choose other data.\n{report}"
            )
    return DatasetDict({name: Dataset.from_list(pairs) for name, pairs in chosen.items()}), report


def _read(row: dict, where: str) -> tuple[dict | None, str, str | None]:
    """Read a row as (pair or `None`, a text to know it by, why it is no pair)."""
    try:
        pair = to_pair(row)
    except NotAPair as error:
        return None, str(row.get("prompt") or row["chosen"]), str(error)
    except ValueError as error:
        raise ValueError(f"{where}, source {_source_of(row)!r}: {error}") from error
    return pair, pair["prompt"][-1]["content"], None
