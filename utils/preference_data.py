"""Preference data from a Hub repository, a folder or a file: pairs in one form, and an account of what is dropped.

One row is always `{"source": str, "prompt": [messages], "chosen": [one assistant message], "rejected": [one assistant
message]}`. Left out: columns of other names than prompt, chosen, rejected and system.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
FORMS = r"""A pair may stand in four forms:
1. message lists: chosen and rejected are [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}];
2. message lists with a prompt column, which is a message list or text, and answers of one message or the whole talk;
3. plain text: prompt, chosen and rejected are strings, and system may be one;
4. transcripts: chosen and rejected are strings like "\n\nHuman: ...\n\nAssistant: ..."."""
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class NotAPair(ValueError):
    """A row of a known form whose two sides are no answers to one question; the message is the reason in few words."""


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


def load_rows(
    dataset: str,
    revision: str | None = None,
    split: str = "train",
    config: str | None = None,
    token: str | None = None,
):
    """Load the raw rows of one split of a data set.

    Args:
        dataset: Hub id, local folder, or local .jsonl, .json or .parquet file, which is one split, train.
        revision: commit of a Hub data set.
        split: such as "train" or "test".
        config: configuration, for a data set that has several.
        token: Hub token for private data.

    Returns:
        `datasets.Dataset`, or `None` if there is no split of this name that is for testing.

    Raises:
        ValueError: for a file of another format, an unknown split or configuration, or data that needs code to load.
    """
    from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset

    path = Path(dataset)
    if path.is_file():
        if path.suffix not in FILE_FORMATS:
            raise ValueError(f"{dataset} is not one of {', '.join(FILE_FORMATS)}. Convert it, one pair a row.")
        if split != "train":
            return None
        return load_dataset(FILE_FORMATS[path.suffix], data_files=str(path), split="train")
    try:
        configs = get_dataset_config_names(dataset, revision=revision, token=token)
        if config not in configs and (config is not None or "default" not in configs and len(configs) > 1):
            raise ValueError(f"{dataset} has no configuration {config!r}. Set DATASET_CONFIG: {', '.join(configs)}.")
        splits = get_dataset_split_names(dataset, config, revision=revision, token=token)
    except RuntimeError as error:  # what datasets raises where a repository brings a script
        raise ValueError(
            f"{dataset} cannot be loaded without running its code, which the course never does: {error} "
            "Choose data in Parquet or JSON lines."
        ) from error
    if split in splits:
        return load_dataset(dataset, config, revision=revision, split=split, token=token)
    if "test" in split:
        return None
    raise ValueError(f"{dataset} has no split {split!r}. Set DATASET_SPLIT to one of {', '.join(splits)}.")


def to_pair(row: dict) -> dict:
    """Bring a row of one of the four `FORMS` into the course's form: the prompt is all before the last assistant turn.

    Beside whole conversations, a `prompt` column repeats what they begin with and is left aside: kept, it would be
    trained on twice.

    Args:
        row: with the columns `chosen` and `rejected`, and perhaps `prompt` and `system`.

    Raises:
        NotAPair: if the two sides do not answer the same prompt, or do not answer.
        ValueError: if the row has another form, naming the column, what it holds, and all columns.

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
    if len(chosen) < 2 or chosen[-2]["role"] != "user":
        raise NotAPair("no question before the answer")
    return {"source": _source(row), "prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def _conversation(row: dict, side: str) -> list[dict]:
    """Read one side of a row as a list of messages, with the prompt in front."""
    prompt, answer = row.get("prompt"), row.get(side)
    if isinstance(answer, str):
        text = answer if not _is_transcript(prompt) or answer.startswith(prompt) else prompt + answer
        if _is_transcript(text):
            return _turns(text)
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


def _source(row: dict) -> str:
    return str(row.get("source") or row.get("dataset") or "unnamed")


def split_pairs(rows, num_train: int | None, num_eval: int, problem, seed: int = 42, eval_rows=None):
    """Choose pairs for training and evaluation, so that no prompt stands in both.

    Rows are examined in a seeded random order until there are enough. A pair's prompt decides its side: a hash, so
    that the same prompt always falls on the same side.

    Args:
        rows: raw training rows.
        num_train: training pairs wanted; `None` takes all.
        num_eval: evaluation pairs wanted; of small data at most a fifth is held out.
        problem: function of a pair that returns the reason to drop it, or `None`.
        seed: of the order.
        eval_rows: raw rows of a test split, if the data set has one; then all of `rows` may be trained on.

    Returns:
        (`DatasetDict` with train and test, `Report`).

    Raises:
        ValueError: for a row of no known form, naming it; or if nothing is left to train or to evaluate on, with the
            report.
    """
    from datasets import Dataset, DatasetDict
    from tqdm.auto import tqdm

    report, chosen = Report(), {"train": [], "test": []}
    wanted = {"train": len(rows) if num_train is None else num_train, "test": num_eval}
    share = 0.0 if eval_rows is not None else min(num_eval / min(num_eval + wanted["train"], len(rows)), 0.2)
    parts = [("test", eval_rows)] if eval_rows is not None else []
    parts.append(("train", rows))
    orders = ((part, name, _seeded_order(len(part), seed)) for name, part in parts)
    stream = ((part[number], name, number) for part, name, order in orders for number in order)
    tested = set()
    for row, split, number in tqdm(stream, desc="Choosing pairs", total=sum(len(part) for _, part in parts)):
        if all(len(chosen[name]) >= wanted[name] for name in chosen):
            break
        try:
            pair, reason = to_pair(row), None
        except NotAPair as error:
            pair, reason = {"prompt": []}, str(error)
        except ValueError as error:
            where = f"Row {number} (counted from 0) of {split}, source {_source(row)!r}"
            raise ValueError(f"{where}: {error}") from None
        side = "test" if split == "test" or prompt_hash(pair) < share else "train"
        if len(chosen[side]) >= wanted[side]:
            continue
        report.examined += 1
        if not reason and side == "train" and prompt_hash(pair) in tested:
            reason = "prompt is evaluated on"
        if reason := reason or problem(pair):
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


def _seeded_order(count: int, seed: int) -> list[int]:
    import numpy

    return numpy.random.default_rng(seed).permutation(count).tolist()


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
