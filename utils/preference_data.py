"""Preference data from a Hub repository, a folder or a file: pairs in one form, and an account of what is dropped.

One row is always `{"source": str, "prompt": [messages], "chosen": [one assistant message], "rejected": [one assistant
message]}`. Left out so far: formats other than message lists.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass
class Report:
    """The account of a selection: every row examined is kept, or dropped for a named reason with an example."""

    examined: int = 0
    kept: Counter = field(default_factory=Counter)  # by split
    dropped: Counter = field(default_factory=Counter)  # by reason
    examples: dict[str, str] = field(default_factory=dict)  # reason -> the beginning of one such prompt

    def drop(self, reason: str, pair: dict) -> None:
        """Count a dropped pair, and keep the beginning of the first one's prompt."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, pair["prompt"][-1]["content"][:80] if pair["prompt"] else "")

    def as_dict(self) -> dict:
        """Return the account ready for JSON."""
        return {
            "examined": self.examined,
            "kept": dict(self.kept),
            "dropped": dict(self.dropped),
            "examples": self.examples,
        }

    def __str__(self) -> str:
        lines = [f"examined {self.examined:>6}"]
        lines += [f"kept     {count:>6}  {split}" for split, count in self.kept.items()]
        lines += [
            f"dropped  {count:>6}  {reason}, e.g. {self.examples[reason]!r}"
            for reason, count in self.dropped.most_common()
        ]
        return "\n".join(lines)


def load_rows(dataset: str, revision: str | None = None, split: str = "train", token: str | None = None):
    """Load the raw rows of a data set.

    Args:
        dataset: Hub id, local folder, or local .jsonl, .json or .parquet file.
        revision: commit of a Hub data set.
        split: such as "train" or "test".
        token: Hub token for private data.

    Returns:
        `datasets.Dataset`, or `None` if there is no such split.

    Raises:
        ValueError: for a file of another format.
    """
    from datasets import get_dataset_split_names, load_dataset

    path = Path(dataset)
    if path.is_file():
        if path.suffix not in FILE_FORMATS:
            raise ValueError(f"{dataset} is not one of {', '.join(FILE_FORMATS)}. Convert it, one pair a row.")
        return (
            load_dataset(FILE_FORMATS[path.suffix], data_files=str(path), split="train") if split == "train" else None
        )
    if split not in get_dataset_split_names(dataset, revision=revision, token=token):
        return None
    return load_dataset(dataset, revision=revision, split=split, token=token)


def to_pair(row: dict) -> dict:
    """Bring one row of message lists into the course's form: the prompt is all before the last assistant turn.

    A `prompt` column that is a plain string repeats the last user turn and is left aside: kept, it would be trained
    on twice.

    Args:
        row: with `chosen` and `rejected` message lists, and perhaps a `prompt` message list.

    Raises:
        ValueError: if the row has another form, naming its columns.

    Example:
        >>> ask, good = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
        >>> bad = {"role": "assistant", "content": "No."}
        >>> to_pair({"prompt": "Hi", "chosen": [ask, good], "rejected": [ask, bad]})["prompt"]
        [{'role': 'user', 'content': 'Hi'}]
    """
    try:
        chosen, rejected = (_messages(row[side]) for side in ("chosen", "rejected"))
        given = _messages(row["prompt"]) if isinstance(row.get("prompt"), list) else []
        if chosen[: len(given)] != given:
            chosen, rejected = given + chosen, given + rejected
        answers_only = {chosen[-1]["role"], rejected[-1]["role"]} == {"assistant"}
        if not answers_only or chosen[:-1] != rejected[:-1] or chosen[-2]["role"] != "user":
            raise ValueError
    except (KeyError, TypeError, IndexError, ValueError):
        raise ValueError(
            f"This row has the columns {', '.join(sorted(row))}, but chosen and rejected are not message lists that "
            'begin alike, [..., {"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]: '
            f"{str(row.get('chosen'))[:200]}"
        ) from None
    source = str(row.get("source") or row.get("dataset") or "unnamed")
    return {"source": source, "prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def split_pairs(rows, num_train: int | None, num_eval: int, problem, seed: int = 42, eval_rows=None):
    """Choose pairs for training and evaluation, so that no prompt stands in both.

    Rows are examined in a seeded random order until there are enough. A pair's prompt decides its side: a hash, so
    that the same prompt always falls on the same side.

    Args:
        rows: raw training rows.
        num_train: training pairs wanted; `None` takes all.
        num_eval: evaluation pairs wanted.
        problem: function of a pair that returns the reason to drop it, or `None`.
        seed: of the order.
        eval_rows: raw rows of a test split, if the data set has one; then all of `rows` may be trained on.

    Returns:
        (`DatasetDict` with train and test, `Report`).

    Raises:
        ValueError: if nothing is left to train or to evaluate on; the message holds the report.
    """
    from datasets import Dataset, DatasetDict
    from tqdm.auto import tqdm

    report, chosen = Report(), {"train": [], "test": []}
    wanted = {"train": len(rows) if num_train is None else num_train, "test": num_eval}
    share = 0.0 if eval_rows is not None else num_eval / min(num_eval + wanted["train"], len(rows))
    parts = [("test", eval_rows)] if eval_rows is not None else []
    parts.append((None, rows))
    stream = ((row, side) for side, part in parts for row in part.shuffle(seed=seed))
    tested = set()
    for row, side in tqdm(stream, desc="Choosing pairs", total=sum(len(part) for _, part in parts)):
        if all(len(chosen[name]) >= wanted[name] for name in chosen):
            break
        pair = to_pair(row)
        side = side or ("test" if prompt_hash(pair) < share else "train")
        if len(chosen[side]) >= wanted[side]:
            continue
        report.examined += 1
        reason = "prompt is evaluated on" if side == "train" and prompt_hash(pair) in tested else problem(pair)
        if reason:
            report.drop(reason, pair)
            continue
        report.kept[side] += 1
        chosen[side].append(pair)
        if side == "test":
            tested.add(prompt_hash(pair))
    if not chosen["train"] or not chosen["test"]:
        empty = "train" if not chosen["train"] else "evaluate"
        raise ValueError(f"No pair is left to {empty} on. Raise MAX_LENGTH, or choose other data.\n{report}")
    return DatasetDict({name: Dataset.from_list(pairs) for name, pairs in chosen.items()}), report


def prompt_hash(pair: dict) -> float:
    """Map a prompt to a number in [0, 1) that depends on its words alone, not on case or spacing."""
    text = " ".join(" ".join(message["content"] for message in pair["prompt"]).lower().split())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def answer_problem(pair: dict) -> str | None:
    """Say why the two answers of a pair cannot teach a preference, or `None` if they can."""
    chosen, rejected = (pair[side][0]["content"].strip() for side in ("chosen", "rejected"))
    if not chosen or not rejected:
        return "empty answer"
    return "equal answers" if chosen == rejected else None


def _messages(messages: list[dict]) -> list[dict]:
    kept = [{"role": message["role"], "content": message["content"]} for message in messages]
    if not all(isinstance(text, str) for message in kept for text in message.values()):
        raise TypeError
    return kept
