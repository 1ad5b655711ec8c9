"""Preference data from a Hub repository, a folder or a file: chosen, split, and an account of what is dropped.

What form a row may have: see `pair_formats`. Left out so far: several data sets in one mix.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from utils.data.pair_formats import NotAPair, source_of, to_pair

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


def load_splits(
    dataset: str,
    revision: str | None = None,
    split: str = "train",
    config: str | None = None,
    token: str | None = None,
):
    """Load the raw rows to train on, and those to test on if the data set has them.

    Args:
        dataset: Hub id, local folder, or local .jsonl, .json or .parquet file, which is one split, train.
        revision: commit of a Hub data set.
        split: to train on; its test split has the same name with test in the place of train, such as test_prefs.
        config: configuration, for a data set that has several.
        token: Hub token for private data.

    Returns:
        (`datasets.Dataset`, `datasets.Dataset` or `None`).

    Raises:
        ValueError: for a file of another format, an unknown split or configuration, or data that needs code to load.
    """
    from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset

    path = Path(dataset)
    if path.is_file():
        if path.suffix not in FILE_FORMATS:
            raise ValueError(f"{dataset} is not one of {', '.join(FILE_FORMATS)}. Convert it, one pair a row.")
        kind, where, splits = FILE_FORMATS[path.suffix], {"data_files": str(path)}, ["train"]
    else:
        try:
            configs = get_dataset_config_names(dataset, revision=revision, token=token)
            if config not in configs and (config is not None or "default" not in configs and len(configs) > 1):
                raise ValueError(
                    f"{dataset} has several configurations, and {config!r} is none of them: set DATASET_CONFIG to one "
                    f"of {', '.join(configs)}."
                )
            splits = get_dataset_split_names(dataset, config, revision=revision, token=token)
        except RuntimeError as error:  # what datasets raises where a repository brings a script
            raise ValueError(
                f"{dataset} cannot be loaded without running its code, which the course never does: {error} "
                "Choose data in Parquet or JSON lines."
            ) from error
        kind, where = dataset, {"name": config, "revision": revision, "token": token}
    if split not in splits:
        raise ValueError(f"{dataset} has no split {split!r}. Set DATASET_SPLIT to one of {', '.join(splits)}.")
    test = split.replace("train", "test")
    if path.is_dir():  # of a folder with a card, datasets would take the rows of before from its cache
        where |= {"download_mode": "force_redownload", "verification_mode": "no_checks"}
    parts = load_dataset(kind, **where)
    return parts[split], parts[test] if test != split and test in splits else None


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
    import numpy
    from datasets import Dataset, DatasetDict
    from tqdm.auto import tqdm

    report, chosen = Report(), {"train": [], "test": []}
    wanted = {"train": len(rows) if num_train is None else num_train, "test": num_eval}
    share = 0.0 if eval_rows is not None else min(num_eval / min(num_eval + wanted["train"], len(rows)), 0.2)
    parts = [("test", eval_rows)] if eval_rows is not None else []
    parts.append(("train", rows))
    stream = (
        (part[int(number)], name, int(number))
        for name, part in parts
        for number in numpy.random.default_rng(seed).permutation(len(part))
    )
    tested = set()
    for row, split, number in tqdm(stream, desc="Choosing pairs", total=sum(len(part) for _, part in parts)):
        if all(len(chosen[name]) >= wanted[name] for name in chosen):
            break
        try:
            pair, reason = to_pair(row), None
        except NotAPair as error:
            pair, reason = {"prompt": [{"content": str(row.get("prompt") or row["chosen"])}]}, str(error)
        except ValueError as error:
            where = f"Row {number} (counted from 0) of {split}, source {source_of(row)!r}"
            raise ValueError(f"{where}: {error}") from error
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
        raise ValueError(
            f"No pair is left to {empty} on, for the reasons below: raise MAX_LENGTH if pairs are too long, else mend "
            f"the rows or choose other data.\n{report}"
        )
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
