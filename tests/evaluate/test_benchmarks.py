"""The article's benchmarks under today's names, their averages, and a task of one's own that lm-eval runs."""

import json
import re
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from utils.evaluate import benchmarks as benchmark_suite
from utils.evaluate import scores as evaluation
from utils.evaluate.benchmarks import ARTICLE, BENCHMARKS, HELD_OUT, PUBLISHED
from utils.practice import stand_ins
from utils.train import model_loading

TASKS = Path(lm_eval.__file__).parent / "tasks"


@pytest.fixture(scope="module")
def configs() -> dict[str, dict]:
    """Name -> the task file of each benchmark, with what it includes, as text and data of YAML."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))

    def read(path: Path) -> dict:
        config = yaml.load(path.read_text(), Loader)
        return (read(path.parent / config["include"]) | config) if "include" in config else config

    folders = ["agieval", "arc", "bigbench/multiple_choice", "hellaswag", "ifeval", "openbookqa", "piqa"]
    folders += ["super_glue/boolq", "truthfulqa", "winogrande"]
    found = {}
    for folder in folders:
        for path in (TASKS / folder).glob("*.yaml"):
            config = read(path)
            if isinstance(config.get("task"), str):
                found[config["task"]] = config
    return found


def test_every_name_is_a_task_of_todays_lm_eval():
    """By lm-eval's own index, which reads files and no network."""
    manager = TaskManager()
    missing = [task.name for task in BENCHMARKS if task.name not in manager.all_tasks]
    assert not missing
    assert "bigbench_causal_judgement" not in manager.all_tasks  # the article's name


def test_every_metric_is_one_that_its_task_reports(configs):
    for task in BENCHMARKS:
        metrics = {entry["metric"] for entry in configs[task.name]["metric_list"]}
        assert task.metric in metrics, f"{task.name} reports {metrics}"
        if task.suite in ("AGIEval", "GPT4All"):  # as the article's tool: acc_norm where there is one
            assert (task.metric == "acc_norm") == ("acc_norm" in metrics), task.name


def test_no_task_asks_for_a_repositorys_code(configs):
    for task in BENCHMARKS:
        config = configs[task.name]
        assert "trust_remote_code" not in json.dumps(config) and not config.get("unsafe_code"), task.name
        assert "/" in config["dataset_path"], f"{task.name} loads a script named {config['dataset_path']}"


def test_the_suites_are_the_articles():
    counts = {suite: sum(task.suite == suite for task in BENCHMARKS) for suite in [*ARTICLE, "IFEval"]}
    assert counts == {"AGIEval": 8, "GPT4All": 7, "TruthfulQA": 1, "BigBench": 14, "IFEval": 1}
    assert sum(task.weight for task in BENCHMARKS if task.suite == "BigBench") == 18  # tasks of the article's BigBench
    assert len({task.name for task in BENCHMARKS}) == len(BENCHMARKS)
    assert set(benchmark_suite.DIFFERENCES) == set(counts)
    assert [task.name for task in BENCHMARKS if task.chat] == ["ifeval"]


def test_published_rows_average_to_the_published_averages():
    averages = [f"{sum(values) / 4:.2f}" for values in PUBLISHED.values()]
    assert averages == ["45.42", "46.76", "48.63", "51.34"]
    rows = benchmark_suite.table_rows([])
    assert [row["average"] for row in rows] == averages and {row["origin"] for row in rows} == {"published"}
    assert rows[1]["TruthfulQA"] == "48.11" and rows[1]["IFEval"] == ""


def test_choosing_by_suite_and_task():
    assert benchmark_suite.choose(None) == BENCHMARKS and benchmark_suite.choose([]) == []
    assert [task.name for task in benchmark_suite.choose(["IFEval", "piqa"])] == ["piqa", "ifeval"]
    with pytest.raises(ValueError, match="TASKS has agieval, which is neither a suite .AGIEval, GPT4All"):
        benchmark_suite.choose(["agieval"])


def measured(tasks, model="base", value=0.5, limit=None):
    return [
        {"model": model, "suite": it.suite, "task": it.name, "metric": it.metric, "value": value, "limit": limit}
        for it in tasks
    ]


def test_a_measured_row_says_what_was_run():
    whole = benchmark_suite.table_rows(measured(BENCHMARKS))[-1]
    assert (whole["model"], whole["origin"], whole["average"], whole["IFEval"]) == (
        "base",
        "measured",
        "50.00",
        "50.00",
    )
    part = benchmark_suite.table_rows(measured(benchmark_suite.choose(["boolq", "TruthfulQA"]), "merged", 0.25, 10))[-1]
    assert part["origin"] == "measured, first 10 of each task" and part["average"] == ""
    assert (part["GPT4All"], part["TruthfulQA"], part["AGIEval"]) == ("25.00 (1 of 7 tasks)", "25.00", "")


def test_the_merged_puzzles_weigh_what_they_weighed():
    rows = measured([task for task in BENCHMARKS if task.suite == "BigBench"], value=0.0)
    for row in rows:
        row["value"] = float(row["task"].startswith("bigbench_logical_deduction"))
    assert benchmark_suite.table_rows(rows)[-1]["BigBench"] == f"{100 * 4 / 18:.2f}"


def test_the_chance_of_the_items_is_that_of_drawing_them():
    """A simulation: each item of AGIEval is right with probability 0.31."""
    draws = np.random.default_rng(0)
    sizes = [task.items for task in BENCHMARKS if task.suite == "AGIEval"]
    averages = 100 * np.mean([draws.binomial(size, 0.31, 4000) / size for size in sizes], axis=0)
    assert benchmark_suite.half_width("AGIEval", 31) == pytest.approx(1.96 * averages.std(), rel=0.05)
    assert benchmark_suite.half_width("AGIEval", 31, 100) > 1.5 * benchmark_suite.half_width("AGIEval", 31)


def test_minutes_follow_items_and_limit():
    arc = benchmark_suite.choose(["arc_challenge"])
    assert benchmark_suite.predict_minutes(arc, None, 3.0, 0.1, 4) == pytest.approx(2 * 1172 * 3 / 60)
    assert benchmark_suite.predict_minutes(arc, 10, 3.0, 0.1, 4) == pytest.approx(1)
    ifeval = benchmark_suite.choose(["IFEval"])
    assert benchmark_suite.predict_minutes(ifeval, 9, 3.0, 0.1, 4) == pytest.approx(3 * 1280 * 0.1 / 60)
    assert benchmark_suite.predict_minutes([], None, 3.0, 0.1, 4) == 0


def test_lm_eval_decides_pairs_as_we_do(small_base, tokenizer, tmp_path):
    """The task file as notebook 06 uses it, with braces and quotes in a text, and a talk of several turns."""
    pairs = stand_ins.preference_pairs(10, 5)
    pairs[0] = pairs[0] | {"prompt": pairs[1]["prompt"] + pairs[1]["chosen"] + pairs[0]["prompt"]}
    pairs[2] = pairs[2] | {"chosen": [{"role": "assistant", "content": 'It is {{ "x" }}, or {% y %}.'}]}
    folder = benchmark_suite.write_held_out(pairs, tokenizer, tmp_path / "with a space")
    model = model_loading.load_base(str(small_base), torch.float32, four_bit=False, device_map="cpu")
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3),
        tasks=[HELD_OUT],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )
    ours = evaluation.summed_margins(evaluation.score_pairs(model, tokenizer, pairs))
    assert np.allclose(benchmark_suite.held_out_margins(found), ours, atol=1e-3)
    assert found["results"][HELD_OUT]["acc,none"] == pytest.approx((ours > 0).mean())
    asked = found["samples"][HELD_OUT][2]["arguments"][0]
    assert (
        asked[0].startswith(tokenizer.bos_token)
        and asked[1] == f'It is {{{{ "x" }}}}, or {{% y %}}.{tokenizer.eos_token}'
    )


def test_entries_take_the_metric_that_counts():
    found = {
        "results": {
            "piqa": {"acc,none": 0.7, "acc_stderr,none": 0.01, "acc_norm,none": 0.8, "acc_norm_stderr,none": 0.02},
            "boolq": {"acc,none": 0.6, "acc_stderr,none": "N/A"},
        },
        "n-samples": {"piqa": {"original": 1838, "effective": 10}, "boolq": {"original": 3270, "effective": 10}},
        "versions": {"piqa": 1.0, "boolq": 2.0},
    }
    rows = benchmark_suite.entries(found, "adapter", BENCHMARKS, 10)
    assert [(row["task"], row["metric"], row["value"], row["stderr"]) for row in rows] == [
        ("boolq", "acc", 0.6, None),
        ("piqa", "acc_norm", 0.8, 0.02),
    ]
    assert rows[1] | {"model": "adapter", "suite": "GPT4All", "limit": 10, "items": 10, "version": 1.0} == rows[1]


def test_the_task_file_is_a_template(tokenizer, tmp_path):
    folder = benchmark_suite.write_held_out(stand_ins.preference_pairs(2, 1), tokenizer, tmp_path)
    task = yaml.safe_load((folder / "held_out.yaml").read_text())
    assert task["task"] == HELD_OUT and Path(task["dataset_kwargs"]["data_files"]["test"]).exists()
    lines = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(re.search(r"assistant\n$", line["prompt"]) for line in lines)
    assert not any(line["answers"][0].startswith("<|im_start|>") for line in lines)


def test_the_articles_changes_are_what_it_published():
    changes = {suite: round(after - before, 2) for suite, before, after in benchmark_suite.published_changes()}
    assert changes == {"AGIEval": 0.46, "GPT4All": 0.24, "TruthfulQA": 4.2, "BigBench": 0.47}
