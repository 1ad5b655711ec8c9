"""The article's benchmarks under today's names, their averages, and a task of one's own that lm-eval runs."""

from pathlib import Path

import lm_eval
import numpy as np
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from utils import evaluate
from utils.evaluate import benchmarks
from utils.evaluate.benchmarks import ARTICLE, BENCHMARKS, HELD_OUT
from utils.practice import stand_ins
from utils.train import model_loading

TASKS = Path(lm_eval.__file__).parent / "tasks"
FOLDERS = ["agieval", "arc", "bigbench/multiple_choice", "hellaswag", "ifeval", "openbookqa", "piqa"]
FOLDERS += ["super_glue/boolq", "truthfulqa", "winogrande"]


@pytest.fixture(scope="module")
def configs() -> dict[str, dict]:
    """Name -> the task file of each benchmark, with what it includes, as text and data of YAML."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))

    def read(path: Path) -> dict:
        config = yaml.load(path.read_text(), Loader)
        return (read(path.parent / config["include"]) | config) if "include" in config else config

    found = [read(path) for folder in FOLDERS for path in (TASKS / folder).glob("*.yaml")]
    return {config["task"]: config for config in found if isinstance(config.get("task"), str)}


def test_every_name_and_metric_is_one_of_todays_lm_eval_and_no_task_runs_code(configs):
    for task in BENCHMARKS:
        config = configs[task.name]
        metrics = {entry["metric"] for entry in config["metric_list"]}
        assert task.metric in metrics, f"{task.name} reports {metrics}"
        if task.suite in ("AGIEval", "GPT4All"):  # as the article's tool: acc_norm where there is one
            assert (task.metric == "acc_norm") == ("acc_norm" in metrics), task.name
        assert "trust_remote_code" not in str(config) and not config.get("unsafe_code"), task.name
        assert "/" in config["dataset_path"], f"{task.name} loads a script named {config['dataset_path']}"


def test_the_suites_are_the_articles():
    counts = {row["suite"]: row["tasks"] for row in evaluate.suite_rows()}
    assert counts == {"AGIEval": 8, "GPT4All": 7, "TruthfulQA": 1, "BigBench": 14, "IFEval": 1}
    assert sum(task.weight for task in BENCHMARKS if task.suite == "BigBench") == 18  # tasks of the article's BigBench
    assert len({task.name for task in BENCHMARKS}) == len(BENCHMARKS)
    rows = evaluate.benchmark_rows([])
    assert [row["average"] for row in rows] == ["45.42", "46.76", "48.63", "51.34"]
    assert rows[1]["TruthfulQA"] == "48.11" and rows[1]["IFEval"] == ""
    changes = {row["suite"]: row["after 1,000 pairs"] for row in evaluate.chance_rows(100)}
    assert changes == {"AGIEval": "+0.46", "GPT4All": "+0.24", "TruthfulQA": "+4.20", "BigBench": "+0.47"}


def test_choosing_by_suite_and_task():
    assert evaluate.choose_benchmarks(["all"]) == BENCHMARKS and evaluate.choose_benchmarks([]) == []
    assert [task.name for task in evaluate.choose_benchmarks(["IFEval", "piqa"])] == ["piqa", "ifeval"]
    assert [task.name for task in evaluate.choose_benchmarks("piqa")] == ["piqa"]
    with pytest.raises(ValueError, match="TASKS has agieval, which is neither a suite .AGIEval, GPT4All"):
        evaluate.choose_benchmarks(["agieval"])


def measured(tasks, model="base", value=0.5, limit=None):
    return [
        {"model": model, "suite": it.suite, "task": it.name, "metric": it.metric, "value": value, "limit": limit}
        for it in tasks
    ]


def test_a_measured_row_says_what_was_run_and_weighs_merged_puzzles_as_before():
    whole = evaluate.benchmark_rows(measured(BENCHMARKS))[-1]
    assert (whole["origin"], whole["average"], whole["IFEval"]) == ("measured", "50.00", "50.00")
    part = evaluate.benchmark_rows(measured(evaluate.choose_benchmarks(["boolq", "TruthfulQA"]), "merged", 0.25, 10))[
        -1
    ]
    assert part["origin"] == "measured, first 10 of each task" and part["average"] == ""
    assert (part["GPT4All"], part["TruthfulQA"], part["AGIEval"]) == ("25.00 (1 of 7 tasks)", "25.00", "")
    rows = measured([task for task in BENCHMARKS if task.suite in ARTICLE], value=0.0)
    for row in rows:
        row["value"] = float(row["task"].startswith("bigbench_logical_deduction"))
    row = evaluate.benchmark_rows(rows)[-1]
    assert row["BigBench"] == f"{100 * 4 / 18:.2f}" and row["average"] == f"{100 / 18:.2f}"


def test_the_chance_of_the_items_is_that_of_drawing_them():
    """A simulation: each item of AGIEval is right with probability 0.31."""
    draws = np.random.default_rng(0)
    sizes = [task.items for task in BENCHMARKS if task.suite == "AGIEval"]
    averages = 100 * np.mean([draws.binomial(size, 0.31, 4000) / size for size in sizes], axis=0)
    assert benchmarks.half_width("AGIEval", 31) == pytest.approx(1.96 * averages.std(), rel=0.05)
    assert benchmarks.half_width("AGIEval", 31, 100) > 1.5 * benchmarks.half_width("AGIEval", 31)


def test_minutes_follow_items_and_limit():
    arc, ifeval = evaluate.choose_benchmarks(["arc_challenge"]), evaluate.choose_benchmarks(["IFEval"])
    assert benchmarks._minutes(arc, 0, 3.0, 0.1, 4) == pytest.approx(2 * 1172 * 3 / 60)
    assert benchmarks._minutes(arc, 10, 3.0, 0.1, 4) == pytest.approx(1)
    assert benchmarks._minutes(ifeval, 9, 3.0, 0.1, 4) == pytest.approx(3 * 1280 * 0.1 / 60)


def test_lm_eval_decides_pairs_as_we_do(small_base, tokenizer, tmp_path):
    """The task file as notebook 06 uses it, with braces and quotes in a text, and a talk of several turns."""
    pairs = stand_ins.preference_pairs(10, 5)
    pairs[0] = pairs[0] | {"prompt": pairs[1]["prompt"] + pairs[1]["chosen"] + pairs[0]["prompt"]}
    pairs[2] = pairs[2] | {"chosen": [{"role": "assistant", "content": 'It is {{ "x" }}, or {% y %}.'}]}
    folder = evaluate.write_held_out(pairs, tokenizer, tmp_path / "with a space")
    model = model_loading.load_base(str(small_base), torch.float32, four_bit=False, device_map="cpu")
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3),
        tasks=[HELD_OUT],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )
    scores = {"base": evaluate.score_pairs(model, tokenizer, pairs)}
    row = evaluate.compare_with_lm_eval(scores, {"base": found})["base"]
    assert row["pairs decided differently"] == 0 and row["largest difference"] < 1e-3
    assert row["lm_eval"] == pytest.approx(row["here"])
    turned = {"base": scores["base"].assign(chosen=scores["base"].rejected, rejected=scores["base"].chosen)}
    assert evaluate.compare_with_lm_eval(turned, {"base": found})["base"]["pairs decided differently"] > 5
    asked, answer = found["samples"][HELD_OUT][2]["arguments"][0]
    assert asked.startswith(tokenizer.bos_token)
    assert answer == f'It is {{{{ "x" }}}}, or {{% y %}}.{tokenizer.eos_token}'


def test_rows_take_the_metric_that_counts():
    found = {
        "results": {
            "piqa": {"acc,none": 0.7, "acc_stderr,none": 0.01, "acc_norm,none": 0.8, "acc_norm_stderr,none": 0.02},
            "boolq": {"acc,none": 0.6, "acc_stderr,none": "N/A"},
        },
        "n-samples": {"piqa": {"original": 1838, "effective": 10}, "boolq": {"original": 3270, "effective": 10}},
        "versions": {"piqa": 1.0, "boolq": 2.0},
    }
    boolq, piqa = benchmarks.result_rows(found, "adapter", 10)
    assert (boolq["task"], boolq["metric"], boolq["value"], boolq["stderr"]) == ("boolq", "acc", 0.6, None)
    assert (piqa["task"], piqa["metric"], piqa["value"], piqa["stderr"]) == ("piqa", "acc_norm", 0.8, 0.02)
    assert piqa | {"model": "adapter", "suite": "GPT4All", "limit": 10, "items": 10, "version": 1.0} == piqa
