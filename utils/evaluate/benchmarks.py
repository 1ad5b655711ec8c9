"""The benchmarks that the article measured, under the names that lm-eval 0.4.13 has for them, and a task of one's own.

The article's suite is the one that Nous Research used: AGIEval, GPT4All, TruthfulQA and BigBench, run by LLM AutoEval
on a fork of lm-eval of 2023. Left out: the evaluation, which notebook 06 calls, and any benchmark that needs a judge.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

HELD_OUT = "course_held_out"
SIDES = ("chosen", "rejected")
TEMPLATE = Path(__file__).parents[2] / "data" / "lm_eval" / "held_out.yaml"


@dataclass(frozen=True)
class Benchmark:
    """One task of lm-eval: the metric that counts, how many items it has, and its weight in the suite's average."""

    name: str
    suite: str
    items: int
    metric: str = "acc_norm"
    weight: int = 1
    chat: bool = False  # whether items are asked in the chat template


def _bigbench(name: str, items: int, weight: int = 1) -> Benchmark:
    return Benchmark(f"bigbench_{name}_multiple_choice", "BigBench", items, "acc", weight)


# Items agree with share * (1 - share) / error^2 in the published logs of the suite, for a sum of sizes with the sum.
BENCHMARKS = [
    Benchmark("agieval_aqua_rat", "AGIEval", 254),
    Benchmark("agieval_logiqa_en", "AGIEval", 651),
    Benchmark("agieval_lsat_ar", "AGIEval", 230),
    Benchmark("agieval_lsat_lr", "AGIEval", 510),
    Benchmark("agieval_lsat_rc", "AGIEval", 269),
    Benchmark("agieval_sat_en", "AGIEval", 206),
    Benchmark("agieval_sat_en_without_passage", "AGIEval", 206),
    Benchmark("agieval_sat_math", "AGIEval", 220),
    Benchmark("arc_challenge", "GPT4All", 1172),
    Benchmark("arc_easy", "GPT4All", 2376),
    Benchmark("boolq", "GPT4All", 3270, "acc"),  # has no acc_norm, as winogrande
    Benchmark("hellaswag", "GPT4All", 10042),
    Benchmark("openbookqa", "GPT4All", 500),
    Benchmark("piqa", "GPT4All", 1838),
    Benchmark("winogrande", "GPT4All", 1267, "acc"),
    Benchmark("truthfulqa_mc2", "TruthfulQA", 817, "acc"),
    _bigbench("causal_judgment", 190),
    _bigbench("date_understanding", 369),
    _bigbench("disambiguation_qa", 258),
    _bigbench("geometric_shapes", 359),
    _bigbench("logical_deduction", 1500, 4),
    _bigbench("movie_recommendation", 500),
    _bigbench("navigate", 1000),
    _bigbench("reasoning_about_colored_objects", 2000),
    _bigbench("ruin_names", 448),
    _bigbench("salient_translation_error_detection", 998),
    _bigbench("snarks", 181),
    _bigbench("sports_understanding", 986),
    _bigbench("temporal_sequences", 1000),
    _bigbench("tracking_shuffled_objects", 3750, 2),
    Benchmark("ifeval", "IFEval", 541, "prompt_level_strict_acc", chat=True),
]
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
    "IFEval": "not in the article; asked in the chat template, for it is about following instructions",
}
# Labonne, "Fine-tune Llama 3 with ORPO" (2024), and the leaderboard of his model cards for the last two rows' parts.
PUBLISHED = {
    "Llama 3 8B": [31.10, 69.95, 43.91, 36.70],
    "ORPO on 1,000 pairs": [31.56, 70.19, 48.11, 37.17],
    "ORPO, trained again later": [34.17, 70.59, 52.39, 37.36],
    "Llama 3 8B Instruct": [41.22, 69.86, 51.65, 42.64],
}


def quiet() -> None:
    """Silence lm-eval's notes on a model that is given as an object, which is what is meant here."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def choose(names: list[str] | None) -> list[Benchmark]:
    """Choose benchmarks by the names of suites or tasks.

    Args:
        names: `None` for all, an empty list for none.

    Raises:
        ValueError: naming what is neither a suite nor a task here.

    Example:
        >>> [task.name for task in choose(["TruthfulQA", "boolq"])]
        ['boolq', 'truthfulqa_mc2']
    """
    known = {task.suite for task in BENCHMARKS} | {task.name for task in BENCHMARKS}
    if unknown := sorted(set(names or []) - known):
        suites = ", ".join(dict.fromkeys(task.suite for task in BENCHMARKS))
        raise ValueError(f"TASKS has {', '.join(unknown)}, which is neither a suite ({suites}) nor one of their tasks.")
    return [task for task in BENCHMARKS if names is None or {task.suite, task.name} & set(names)]


def mapping_rows() -> list[dict]:
    """List each suite with its tasks and items today, and what differs from the article's."""
    return [
        {
            "suite": suite,
            "tasks": sum(task.suite == suite for task in BENCHMARKS),
            "items": sum(task.items for task in BENCHMARKS if task.suite == suite),
            "metric": ", ".join(dict.fromkeys(task.metric for task in BENCHMARKS if task.suite == suite)),
            "beside the article's": note,
        }
        for suite, note in DIFFERENCES.items()
    ]


def predict_minutes(
    chosen: list[Benchmark], limit: int | None, item_seconds: float, token_seconds: float, batch_size: int
) -> float:
    """Predict roughly how long benchmarks take one model.

    Args:
        chosen: of `choose`.
        limit: items of each task; `None` for all.
        item_seconds: measured for a pair, which has two answers; most items have four, and are counted twice.
        token_seconds: measured for the next token of a batch; IFEval writes up to 1,280 for each item.
        batch_size: answers written at once.
    """
    seconds = 0.0
    for task in chosen:
        items = min(task.items, limit or task.items)
        seconds += -(-items // batch_size) * 1280 * token_seconds if task.chat else 2 * items * item_seconds
    return seconds / 60


def write_held_out(pairs: list[dict], tokenizer, folder) -> Path:
    """Write pairs and a task file for lm-eval that asks which answer is the likelier one.

    Args:
        pairs: of `utils.data.pairs`.
        tokenizer: with the course's template.
        folder: for `held_out.jsonl` and `held_out.yaml`.

    Returns:
        The folder, to be given to lm-eval's `TaskManager` as `include_path`.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for pair in pairs:
        prompt = tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True)
        talks = [tokenizer.apply_chat_template(pair["prompt"] + pair[it], tokenize=False) for it in SIDES]
        lines.append({"prompt": prompt, "answers": [talk.removeprefix(prompt) for talk in talks], "chosen": 0})
    (folder / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = TEMPLATE.read_text().replace("HELD_OUT_FILE", json.dumps(str(folder / "held_out.jsonl")))
    (folder / "held_out.yaml").write_text(task)
    return folder


def entries(found: dict, model: str, chosen: list[Benchmark], limit: int | None) -> list[dict]:
    """Take from lm-eval's results the metric that counts of each task.

    Args:
        found: what `lm_eval.simple_evaluate` returned.
        model: "base", "adapter" or "merged".
        chosen: of `choose`; those that were not run are left out.
        limit: items of each task, `None` for all.

    Returns:
        Dictionaries with model, suite, task, metric, value and stderr (shares of 1), items, limit and version.
    """
    rows = []
    for task in chosen:
        if result := found["results"].get(task.name):
            value, error = (result[f"{task.metric}{kind},none"] for kind in ("", "_stderr"))
            row = {"model": model, "suite": task.suite, "task": task.name, "metric": task.metric, "value": float(value)}
            row |= {"stderr": float(error) if error != "N/A" else None, "limit": limit}
            row["items"] = found["n-samples"][task.name]["effective"]
            rows.append(row | {"version": found["versions"][task.name]})
    return rows


def held_out_margins(found: dict):
    """Return from lm-eval's results on the held-out pairs how far each chosen answer is likelier, in nats.

    Args:
        found: what `lm_eval.simple_evaluate` returned of the task that `write_held_out` wrote.

    Returns:
        NumPy array with one number for each pair, in the order of the file.
    """
    import numpy as np

    samples = sorted(found["samples"][HELD_OUT], key=lambda sample: sample["doc_id"])
    chosen, rejected = np.array([[likelihood for likelihood, _ in it["filtered_resps"]] for it in samples]).T
    return chosen - rejected


def published_changes() -> list[tuple[str, float, float]]:
    """List the article's suites with their averages before and after its 1,000 pairs, in points."""
    before, after = list(PUBLISHED.values())[:2]
    return list(zip(ARTICLE, before, after, strict=True))


def half_width(suite: str, percent: float, limit: int | None = None) -> float:
    """Return how far, 95 times in 100, a suite's average may lie from what endless items would give, in points.

    From the items alone, as if each were right with the same probability: an upper bound where a metric is no share of
    items, as TruthfulQA's. Two models are asked the same items, so that their difference is known better than this.
    """
    tasks = [task for task in BENCHMARKS if task.suite == suite]
    share = percent / 100
    variance = sum(task.weight**2 * share * (1 - share) / min(task.items, limit or task.items) for task in tasks)
    return 196 * variance**0.5 / sum(task.weight for task in tasks)


def table_rows(benchmarks: list[dict]) -> list[dict]:
    """List models as the article's table does: the published rows, then those that were measured here, in points.

    A suite of which only some tasks were run says how many; the average is that of the article's four suites, and empty
    if one is missing or in part.

    Args:
        benchmarks: of `entries`.
    """
    rows = []
    for model, values in PUBLISHED.items():
        row = {"model": model, "origin": "published", "average": f"{sum(values) / len(values):.2f}"}
        rows.append(
            row | {suite: f"{value:.2f}" for suite, value in zip(ARTICLE, values, strict=True)} | {"IFEval": ""}
        )
    for model in dict.fromkeys(entry["model"] for entry in benchmarks):
        own = {entry["task"]: entry for entry in benchmarks if entry["model"] == model}
        limit = next(iter(own.values()))["limit"]
        row = {"model": model, "origin": f"measured, first {limit} of each task" if limit else "measured"}
        averages = {suite: _average(suite, own) for suite in [*ARTICLE, "IFEval"]}
        whole = [averages[suite][0] for suite in ARTICLE if averages[suite] and averages[suite][1] is None]
        row["average"] = f"{sum(whole) / len(whole):.2f}" if len(whole) == len(ARTICLE) else ""
        for suite, found in averages.items():
            part = f" ({found[1]})" if found and found[1] else ""
            row[suite] = f"{found[0]:.2f}{part}" if found else ""
        rows.append(row)
    return rows


def _average(suite: str, own: dict[str, dict]) -> tuple[float, str | None] | None:
    """Return a suite's weighted average in points, and how much of it was run, `None` if all was."""
    tasks = [task for task in BENCHMARKS if task.suite == suite]
    run = [task for task in tasks if task.name in own]
    if not run:
        return None
    value = 100 * sum(task.weight * own[task.name]["value"] for task in run) / sum(task.weight for task in run)
    return value, None if len(run) == len(tasks) else f"{len(run)} of {len(tasks)} tasks"
