"""The article's benchmarks under lm-eval 0.4.13's names, and a task of one's own; the facts are in `data/lm_eval`.

The article's suite is the one that Nous Research used, run by LLM AutoEval on a fork of lm-eval of 2023. Left out: any
benchmark that needs a judge.
"""

import json
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from utils.data import render_pair
from utils.evaluate.scores import SIDES, answer_prompts, score_pairs, summed_margins

FOLDER = Path(__file__).parents[2] / "data" / "lm_eval"
HELD_OUT = "course_held_out"
ARTICLE = ["AGIEval", "GPT4All", "TruthfulQA", "BigBench"]  # whose mean is the article's average
SUITES = yaml.safe_load((FOLDER / "suites.yaml").read_text())


class Benchmark(NamedTuple):
    """One task of lm-eval, the metric that counts, and its weight in the suite's average."""

    suite: str
    name: str
    items: int
    metric: str
    weight: int


BENCHMARKS = [Benchmark(*row) for row in SUITES["tasks"]]


def choose_benchmarks(names: list[str]) -> list[Benchmark]:
    """Choose benchmarks by the names of suites or tasks; "all" takes all. Raises `ValueError` for another name.

    Example:
        >>> [task.name for task in choose_benchmarks(["TruthfulQA", "boolq"])]
        ['boolq', 'truthfulqa_mc2']
    """
    if isinstance(names, str):
        names = [names]
    known = {"all"} | {task.suite for task in BENCHMARKS} | {task.name for task in BENCHMARKS}
    if unknown := sorted(set(names) - known):
        suites = ", ".join(SUITES["differences"])
        raise ValueError(f"TASKS has {', '.join(unknown)}, which is neither a suite ({suites}) nor one of their tasks.")
    return [task for task in BENCHMARKS if {"all", task.suite, task.name} & set(names)]


def suite_rows() -> list[dict]:
    """List each suite with its tasks and items today, and what differs from the article's."""
    rows = []
    for suite, note in SUITES["differences"].items():
        tasks = _tasks(suite)
        metrics = ", ".join(dict.fromkeys(task.metric for task in tasks))
        row = {"suite": suite, "tasks": len(tasks), "items": sum(task.items for task in tasks), "metric": metrics}
        rows.append(row | {"compared with the article's": note})
    return rows


def predict_minutes(model, tokenizer, pairs, prompts, chosen: list[Benchmark], limit: int, batch_size: int) -> float:
    """Predict roughly how long benchmarks take, from the seconds that pairs and new tokens take this model.

    A `limit` of 0 asks all items. Give it the base, which does not stop before 16 tokens.
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
        if task.suite == "IFEval":
            seconds += -(-items // batch_size) * 1280 * token_seconds  # IFEval writes up to 1,280 tokens for an item
        else:
            seconds += 2 * items * item_seconds  # a pair has two answers, most items have four
    return seconds / 60


def write_held_out(pairs: list[dict], tokenizer, folder) -> Path:
    """Write pairs and a task file for lm-eval that asks which answer is more likely; its `include_path` is `folder`."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for pair in pairs:
        texts = render_pair(pair, tokenizer)
        lines.append({"prompt": texts["prompt"], "answers": [texts[side] for side in SIDES], "chosen": 0})
    (folder / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = (FOLDER / "held_out.yaml").read_text()
    (folder / "held_out.yaml").write_text(task.replace("HELD_OUT_FILE", json.dumps(str(folder / "held_out.jsonl"))))
    return folder


def run_benchmarks(lm, model: str, chosen: list[Benchmark], limit: int, manager) -> list[dict]:
    """Run benchmarks with lm-eval's wrapper `lm` of a model: IFEval in the chat template, the others as bare text.

    Returns a row for each, with the metric that counts; value and stderr are shares of 1.
    """
    import lm_eval

    rows = []
    for chat in (False, True):
        names = [task.name for task in chosen if (task.suite == "IFEval") == chat]
        if names:
            options = {"limit": limit or None, "apply_chat_template": chat, "task_manager": manager}
            rows += result_rows(lm_eval.simple_evaluate(lm, tasks=names, **options), model, limit)
    return rows


def result_rows(found: dict, model: str, limit: int) -> list[dict]:
    """Take from lm-eval's results what `run_benchmarks` returns."""
    rows = []
    for task in BENCHMARKS:
        if result := found["results"].get(task.name):
            error = result[f"{task.metric}_stderr,none"]
            row = {"model": model, "suite": task.suite, "task": task.name, "metric": task.metric}
            row |= {"value": float(result[f"{task.metric},none"]), "stderr": None if error == "N/A" else float(error)}
            row |= {"limit": limit or None, "items": found["n-samples"][task.name]["effective"]}
            rows.append(row | {"version": found["versions"][task.name]})
    return rows


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

    An upper bound where a metric is no share of items, as TruthfulQA's.
    """
    tasks, share = _tasks(suite), percent / 100
    variance = sum(task.weight**2 * share * (1 - share) / min(task.items, limit or task.items) for task in tasks)
    return 196 * variance**0.5 / sum(task.weight for task in tasks)


def chance_rows(limit: int) -> list[dict]:
    """List the article's gain on each suite, in points, with what chance alone may do, for all items and a limit."""
    before, after = list(SUITES["published"].values())[:2]
    rows = []
    for suite, low, high in zip(ARTICLE, before, after, strict=True):
        row = {"suite": suite, "base, published": f"{low:.2f}", "after 1,000 pairs": f"{high - low:+.2f}"}
        row["95 % by chance"] = f"plus or minus {half_width(suite, low):.2f}"
        rows.append(row | {"with your LIMIT": f"plus or minus {half_width(suite, low, limit):.2f}"})
    return rows


def benchmark_rows(benchmarks: list[dict]) -> list[dict]:
    """List models as the article's table does, in points: the published rows, then those of `run_benchmarks`.

    A suite of which only some tasks were run says how many; the average is that of the article's four suites, and
    empty if one is missing or incomplete.
    """
    rows = []
    for model, values in SUITES["published"].items():
        row = {"model": model, "origin": "published", "average": f"{sum(values) / len(values):.2f}"}
        rows.append(row | {suite: f"{value:.2f}" for suite, value in zip(ARTICLE, values, strict=True)})
    for model in dict.fromkeys(entry["model"] for entry in benchmarks):
        own = {entry["task"]: entry for entry in benchmarks if entry["model"] == model}
        limit = next(iter(own.values()))["limit"]
        row = {"model": model, "origin": f"measured, first {limit} of each task" if limit else "measured"}
        whole = {}
        for suite in [*ARTICLE, "IFEval"]:
            run = [task for task in _tasks(suite) if task.name in own]
            if run:
                points = sum(task.weight * own[task.name]["value"] for task in run)
                points *= 100 / sum(task.weight for task in run)
                row[suite] = f"{points:.2f}"
                if len(run) < len(_tasks(suite)):
                    row[suite] += f" ({len(run)} of {len(_tasks(suite))} tasks)"
                else:
                    whole[suite] = points
        if whole.keys() >= set(ARTICLE):
            row["average"] = f"{sum(whole[suite] for suite in ARTICLE) / len(ARTICLE):.2f}"
        rows.append(row)
    columns = ["model", "origin", "average", *ARTICLE, "IFEval"]
    return [{column: row.get(column, "") for column in columns} for row in rows]


def _tasks(suite: str) -> list[Benchmark]:
    return [task for task in BENCHMARKS if task.suite == suite]
