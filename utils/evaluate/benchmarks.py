"""The benchmarks that the article measured, under the names that lm-eval 0.4.13 has for them, and a task of one's own.

The article's suite is the one that Nous Research used: AGIEval, GPT4All, TruthfulQA and BigBench, run by LLM AutoEval
on a fork of lm-eval of 2023. Left out: any benchmark that needs a judge.
"""

import csv
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from utils.evaluate.scores import SIDES, answer_prompts, score_pairs, summed_margins

FOLDER = Path(__file__).parents[2] / "data" / "lm_eval"
HELD_OUT = "course_held_out"
ARTICLE = ["AGIEval", "GPT4All", "TruthfulQA", "BigBench"]  # whose mean is the article's average
DIFFERENCES = {
    "AGIEval": "the same eight tasks, under the same names",
    "GPT4All": "the same seven tasks; boolq and piqa come from copies without a loading script",
    "TruthfulQA": "truthfulqa_mc with its mc2 is today's truthfulqa_mc2",
    "BigBench": (
        "18 tasks are 14 today: three sizes of logical_deduction are one task, and so are those of tracking_shuffled_"
        "objects. In the suite's published logs the three-object tracking task has exactly the figures of the three-"
        "object deduction task, so it seems to have been measured twice: deduction weighs 4 here, and tracking 2"
    ),
    "IFEval": "not in the article; asked in the chat template, because it is about following instructions",
}
# Labonne, "Fine-tune Llama 3 with ORPO" (2024), and the leaderboard of his model cards for the last two rows' parts.
PUBLISHED = {
    "Llama 3 8B": [31.10, 69.95, 43.91, 36.70],
    "ORPO on 1,000 pairs": [31.56, 70.19, 48.11, 37.17],
    "ORPO, trained again later": [34.17, 70.59, 52.39, 37.36],
    "Llama 3 8B Instruct": [41.22, 69.86, 51.65, 42.64],
}


@dataclass(frozen=True)
class Benchmark:
    """One task of lm-eval: how many items it has, the metric that counts, and its weight in the suite's average."""

    suite: str
    name: str
    items: int  # agree with share * (1 - share) / error^2 in the published logs of the suite
    metric: str
    weight: int

    @property
    def chat(self) -> bool:
        """Whether items are asked in the chat template."""
        return self.suite == "IFEval"


def _read() -> list[Benchmark]:
    with open(FOLDER / "benchmarks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Benchmark(it["suite"], it["task"], int(it["items"]), it["metric"], int(it["weight"])) for it in rows]


BENCHMARKS = _read()


def choose_benchmarks(names: list[str]) -> list[Benchmark]:
    """Choose benchmarks by the names of suites or tasks; "all" takes all.

    Raises:
        ValueError: naming what is neither a suite nor a task here.

    Example:
        >>> [task.name for task in choose_benchmarks(["TruthfulQA", "boolq"])]
        ['boolq', 'truthfulqa_mc2']
    """
    if isinstance(names, str):
        names = [names]
    known = {"all"} | {task.suite for task in BENCHMARKS} | {task.name for task in BENCHMARKS}
    if unknown := sorted(set(names) - known):
        suites = ", ".join(DIFFERENCES)
        raise ValueError(f"TASKS has {', '.join(unknown)}, which is neither a suite ({suites}) nor one of their tasks.")
    return [task for task in BENCHMARKS if {"all", task.suite, task.name} & set(names)]


def suite_rows() -> list[dict]:
    """List each suite with its tasks and items today, and what differs from the article's."""
    rows = []
    for suite, note in DIFFERENCES.items():
        tasks = _tasks(suite)
        items, metrics = sum(task.items for task in tasks), dict.fromkeys(task.metric for task in tasks)
        row = {"suite": suite, "tasks": len(tasks), "items": items, "metric": ", ".join(metrics)}
        rows.append(row | {"compared with the article's": note})
    return rows


def predict_minutes(model, tokenizer, pairs, prompts, chosen: list[Benchmark], limit: int, batch_size: int) -> float:
    """Predict roughly how long benchmarks take this model, from the seconds that pairs and new tokens take it.

    A `limit` of 0 asks all items. `model` is better the base, which does not stop before 16 tokens.
    """
    started = time.perf_counter()
    score_pairs(model, tokenizer, pairs, batch_size)
    item_seconds = (time.perf_counter() - started) / len(pairs)
    started = time.perf_counter()
    answer_prompts(model, tokenizer, prompts[:batch_size], 16)
    token_seconds = (time.perf_counter() - started) / 16
    print(f"{item_seconds:.2f} s a pair, {token_seconds:.3f} s a token")
    return _minutes(chosen, limit, item_seconds, token_seconds, batch_size)


def _minutes(chosen, limit: int, item_seconds: float, token_seconds: float, batch_size: int) -> float:
    seconds = 0.0
    for task in chosen:
        items = min(task.items, limit or task.items)
        if task.chat:
            seconds += -(-items // batch_size) * 1280 * token_seconds  # IFEval writes up to 1,280 tokens for an item
        else:
            seconds += 2 * items * item_seconds  # a pair has two answers, most items have four
    return seconds / 60


def write_held_out(pairs: list[dict], tokenizer, folder) -> Path:
    """Write pairs and a task file for lm-eval that asks which answer is more likely.

    Returns the folder, which lm-eval's `TaskManager` takes as `include_path`.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for pair in pairs:
        prompt = tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True)
        talks = [tokenizer.apply_chat_template(pair["prompt"] + pair[it], tokenize=False) for it in SIDES]
        lines.append({"prompt": prompt, "answers": [talk.removeprefix(prompt) for talk in talks], "chosen": 0})
    (folder / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = (FOLDER / "held_out.yaml").read_text()
    (folder / "held_out.yaml").write_text(task.replace("HELD_OUT_FILE", json.dumps(str(folder / "held_out.jsonl"))))
    return folder


def run_benchmarks(lm, model: str, chosen: list[Benchmark], limit: int, manager) -> list[dict]:
    """Run benchmarks with lm-eval, IFEval in the chat template and the others as bare text.

    `lm` is lm-eval's wrapper of the model, `model` its name in the results. Returns the rows of `result_rows`.
    """
    import lm_eval

    rows = []
    for chat in (False, True):
        names = [task.name for task in chosen if task.chat == chat]
        if names:
            options = {"limit": limit or None, "apply_chat_template": chat, "task_manager": manager}
            rows += result_rows(lm_eval.simple_evaluate(lm, tasks=names, **options), model, limit)
    return rows


def result_rows(found: dict, model: str, limit: int) -> list[dict]:
    """Take from lm-eval's results of each benchmark the metric that counts: value and stderr are shares of 1."""
    rows = []
    for task in BENCHMARKS:
        if result := found["results"].get(task.name):
            error = result[f"{task.metric}_stderr,none"]
            rows.append(
                {
                    "model": model,
                    "suite": task.suite,
                    "task": task.name,
                    "metric": task.metric,
                    "value": float(result[f"{task.metric},none"]),
                    "stderr": None if error == "N/A" else float(error),
                    "limit": limit or None,
                    "items": found["n-samples"][task.name]["effective"],
                    "version": found["versions"][task.name],
                }
            )
    return rows


def quiet_lm_eval() -> None:
    """Silence lm-eval's notes on a model that is given as an object, which is intended here."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def compare_with_lm_eval(scores: dict, found: dict) -> dict[str, dict]:
    """Compare, pair by pair, the summed log-probabilities of `score_pairs` with lm-eval's; both are by model."""
    import numpy as np

    rows = {}
    for model, table in scores.items():
        samples = sorted(found[model]["samples"][HELD_OUT], key=lambda sample: sample["doc_id"])
        chosen, rejected = np.array([[likelihood for likelihood, _ in it["filtered_resps"]] for it in samples]).T
        theirs, ours = chosen - rejected, summed_margins(table)
        rows[model] = {
            "lm_eval": found[model]["results"][HELD_OUT]["acc,none"],
            "here": float((ours > 0).mean()),
            "pairs decided differently": int(((theirs > 0) != (ours > 0)).sum()),
            "largest difference": float(abs(theirs - ours).max()),
        }
    return rows


def half_width(suite: str, percent: float, limit: int = 0) -> float:
    """Return how far, 95 times in 100, a suite's average may be from what endless items would give, in points.

    As if each item were right with the same probability: an upper bound where a metric is no share of items, as
    TruthfulQA's. Two models are asked the same items, so their difference is known better than this.
    """
    tasks, share = _tasks(suite), percent / 100
    variance = sum(task.weight**2 * share * (1 - share) / min(task.items, limit or task.items) for task in tasks)
    return 196 * variance**0.5 / sum(task.weight for task in tasks)


def chance_rows(limit: int) -> list[dict]:
    """List the article's gain on each suite beside what chance alone may do, in points, with and without a limit."""
    before, after = list(PUBLISHED.values())[:2]
    return [
        {
            "suite": suite,
            "base, published": f"{low:.2f}",
            "after 1,000 pairs": f"{high - low:+.2f}",
            "95 % by chance": f"plus or minus {half_width(suite, low):.2f}",
            "with your LIMIT": f"plus or minus {half_width(suite, low, limit):.2f}",
        }
        for suite, low, high in zip(ARTICLE, before, after, strict=True)
    ]


def benchmark_rows(benchmarks: list[dict]) -> list[dict]:
    """List models as the article's table does: the published rows, then those of `result_rows`, in points.

    A suite of which only some tasks were run says how many; the average is that of the article's four suites, and
    empty if one is missing or incomplete.
    """
    rows = []
    for model, values in PUBLISHED.items():
        row = {"model": model, "origin": "published", "average": f"{sum(values) / len(values):.2f}"}
        row |= {suite: f"{value:.2f}" for suite, value in zip(ARTICLE, values, strict=True)}
        rows.append(row | {"IFEval": ""})
    for model in dict.fromkeys(entry["model"] for entry in benchmarks):
        own = {entry["task"]: entry for entry in benchmarks if entry["model"] == model}
        limit = next(iter(own.values()))["limit"]
        row = {"model": model, "origin": f"measured, first {limit} of each task" if limit else "measured"}
        row |= {"average": ""}
        whole = []
        for suite in [*ARTICLE, "IFEval"]:
            tasks = _tasks(suite)
            run = [task for task in tasks if task.name in own]
            if not run:
                row[suite] = ""
                continue
            value = 100 * sum(task.weight * own[task.name]["value"] for task in run) / sum(task.weight for task in run)
            row[suite] = f"{value:.2f}"
            if len(run) < len(tasks):
                row[suite] += f" ({len(run)} of {len(tasks)} tasks)"
            elif suite in ARTICLE:
                whole.append(value)
        if len(whole) == len(ARTICLE):
            row["average"] = f"{sum(whole) / len(whole):.2f}"
        rows.append(row)
    return rows


def _tasks(suite: str) -> list[Benchmark]:
    return [task for task in BENCHMARKS if task.suite == suite]
