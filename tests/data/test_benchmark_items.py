"""The items of every benchmark come from the practice hub with their texts, the question first."""

from dataclasses import replace

import pytest
from datasets import Dataset, disable_progress_bars
from support import stand_ins

from utils.data.benchmark_items import BENCHMARKS, GSM8K_TRAIN, Benchmark, load_items
from utils.data.loading import collect, find

disable_progress_bars()
TEXTS = {  # of an item as the stand-in makes it
    "gsm8k": lambda item: [item["question"], item["answer"]],
    "gsm8k train": lambda item: [item["question"]],
    "truthfulqa": lambda item: [item["question"], item["best_answer"]],
    "arc": lambda item: [item["question"], *item["choices"]["text"]],
    "hellaswag": lambda item: [item["ctx"], *item["endings"]],
    "mmlu": lambda item: [item["question"], *item["choices"]],
    "ifeval": lambda item: [item["prompt"]],
}


@pytest.fixture
def put_items(hub, tmp_path):
    """Put rows into a data set on the hub, as its train split."""

    def put(name: str, rows: list[dict]) -> Benchmark:
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        Dataset.from_list(rows).to_parquet(folder / "train.parquet")
        hub.add_repo(name, "dataset")
        hub.commit_folder(name, folder, repo_type="dataset")
        return Benchmark("made", name, None, "train", ("question", "choices"))

    return put


@pytest.mark.parametrize("benchmark", [*BENCHMARKS, GSM8K_TRAIN], ids=lambda benchmark: benchmark.name)
def test_items_are_lists_of_texts_with_the_question_first(hub, benchmark):
    found = load_items(benchmark, find(benchmark).commit)
    assert found == [TEXTS[benchmark.name](item) for item in stand_ins.rows(benchmark.repository, benchmark.split)]
    assert len(found) > 20 and all(isinstance(text, str) and text for texts in found for text in texts)


def test_the_two_splits_of_gsm8k_have_nothing_in_common(hub):
    test, train = ({texts[0] for texts in load_items(each, None)} for each in (BENCHMARKS[0], GSM8K_TRAIN))
    assert len(test) == len(train) and not test & train


def test_fault_a_missing_column_is_named_with_what_is_there(put_items):
    benchmark = put_items("lab/renamed", [{"query": "One?", "options": ["a"], "choices": ["a"]}])
    message = "Benchmark made .lab/renamed. has no column question. It has choices, options, query."
    with pytest.raises(ValueError, match=message):
        load_items(benchmark, None)
    with pytest.raises(ValueError, match="has no column answers, question"):
        load_items(replace(benchmark, columns=("question", "answers")), None)


def test_a_repository_that_is_missing_can_be_left_out(hub):
    missing = replace(BENCHMARKS[1], repository="lab/no-such-benchmark")
    for look in (find, lambda benchmark: load_items(benchmark, None)):
        with pytest.raises(FileNotFoundError, match="lab/no-such-benchmark.*To go on without truthfulqa"):
            collect([missing], look, go_on=False)
        done, lost = collect([BENCHMARKS[0], missing], look, go_on=True)
        assert set(done) == {"gsm8k"} and set(lost) == {"truthfulqa"}


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}], ids=["it fails", "it hangs up"])
def test_fault_a_hub_that_fails_while_items_are_read_is_a_connection_error(hub, put_items, monkeypatch, fault):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    name = f"lab/failing-{'-'.join(fault)}"
    benchmark = put_items(name, [{"question": "One?", "choices": ["a"]}])
    hub.inject(f"{name}/.*parquet", times=100, **fault)
    with pytest.raises(ConnectionError, match=f"failed for {name} .*run this cell again"):
        load_items(benchmark, None)
