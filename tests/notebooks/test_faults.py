"""Faults and bad input, put into the real notebooks through the real client: each ends in one sentence, and early.

What a fault does inside one helper is tested with that helper.
"""

import json
import re
import secrets
import shutil
import string
from pathlib import Path

import pytest
from support import stand_ins
from transformers import LlamaConfig

from utils import hub as hub_access
from utils.data import sources
from utils.practice import course as runner
from utils.train import memory

DATA = Path(__file__).parents[2] / "data"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def stopped(run, hub):
    """Run a notebook that must stop before any weights move, and return the last line of its error."""

    def stop(number: str, kind: str, **parameters) -> str:
        seen = len(hub.requests)
        with pytest.raises(runner.NotebookFailed) as error:
            run(number, **parameters)
        assert not [path for method, path, _ in hub.requests[seen:] if ".safetensors" in path and method == "GET"]
        name, _, message = str(error.value).split("\n\n")[-1].partition(": ")
        assert name == kind, str(error.value)
        return message

    return stop


@pytest.fixture
def trained(course, hub, tmp_path):
    """An adapter of the course's own run, as if it had been trained on the base that the session's hub has now."""
    folder = shutil.copytree(course[1] / "run" / "adapter", tmp_path / "run" / "adapter")
    record = json.loads((folder / "run.json").read_text())
    record["revisions"]["base_model"] = hub_access.resolve_revision(stand_ins.BASE_MODEL)[0]
    (folder / "run.json").write_text(json.dumps(record))


def rows(count: int = 40) -> list[dict]:
    return [row | {"source": "my-notes"} for row in stand_ins.preference_pairs(count, seed=21)]


# What Python runs when it starts: in a kernel, passes of more than two pairs find no memory.
SHORT_OF_MEMORY = """
import sys
if any("ipykernel" in word for word in sys.orig_argv):
    import torch
    from trl.experimental.orpo import ORPOTrainer
    stock = ORPOTrainer.get_batch_loss_metrics
    def short_of_memory(trainer, model, batch, train_eval="train"):
        if len(batch["prompt"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return stock(trainer, model, batch, train_eval)
    ORPOTrainer.get_batch_loss_metrics = short_of_memory
"""


# --- memory ----------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_pass_and_keeps_the_step(run, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
    run("03", environment={"PYTHONPATH": str(tmp_path)}, NUM_PAIRS=32, NUM_EVAL_PAIRS=8)
    (executed,) = tmp_path.glob("03_*.ipynb")
    assert "Out of memory with 4 pairs x 2 passes a step: from here on 2 x 4" in executed.read_text()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["micro_batch"], record["accumulation"], record["steps"]) == (2, 4, 4)


# --- rows ------------------------------------------------------------------------------------------------------


def test_equal_empty_and_special_answers_are_dropped_and_counted(run, write_pairs, tmp_path):
    data = rows(60)
    for number in (3, 14):
        data[number]["rejected"] = data[number]["chosen"]
    data[25]["chosen"][0]["content"] = "  "
    data[36]["rejected"][0]["content"] = ""
    data[47]["chosen"][0]["content"] += "<|end_of_text|> and more"
    run("03", DATASET=write_pairs(data), NUM_PAIRS=None)
    report = json.loads((tmp_path / "run" / "run.json").read_text())["report"]
    expected = {"equal answers": 2, "empty answer": 2, "text of a special token": 1}
    assert {reason: report["dropped"].get(reason) for reason in expected} == expected
    assert report["examined"] == 60 == sum(report["kept"].values()) + sum(report["dropped"].values())


@pytest.mark.parametrize(
    "column, value, told",
    [("chosen", None, "is None"), ("rejected", [], "is []"), ("chosen", 7, "is 7"), ("chosen", "all", "is missing")],
    ids=["None", "empty list", "wrong type", "missing"],
)
def test_a_broken_row_is_named_with_source_row_and_column(stopped, hub, write_pairs, tmp_path, column, value, told):
    data = rows()
    data[17][column] = value
    if value == "all":
        data = [{key: row[key] for key in row if key != column} for row in data]
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.move(write_pairs(data), folder / "train.jsonl")
    name = f"learner/notes-{column}-{type(value).__name__}"
    hub.add_repo(name, "dataset", exist_ok=True)
    hub.commit_folder(name, folder, repo_type="dataset")
    message = stopped("03", "ValueError", DATASET=name, NUM_PAIRS=None)
    row = r"\d+" if value == "all" else 17
    expected = rf"Row {row} \(counted from 0\) of train, source 'my-notes': column {column} {re.escape(told)}"
    assert re.match(expected, message) and "A pair has one of four forms" in message


def test_nothing_left_stops_before_a_model_is_loaded(stopped, write_pairs):
    message = stopped("03", "ValueError", DATASET=write_pairs(rows(12)), MAX_LENGTH=16)
    assert (
        message.startswith("No pair is left to train on, for the reasons below: raise MAX_LENGTH")
        and "prompt too long" in message
    )


# --- sources of a mix ------------------------------------------------------------------------------------------

FEW = {"SOURCES": ["capybara", "math"], "BENCHMARKS": []}


@pytest.fixture
def changed_source(hub, tmp_path):
    """Put a changed copy of a source's stand-in in its place, and the stand-in back afterwards."""
    from datasets import load_dataset

    changed = []

    def change(repo_id: str, edit) -> None:
        rows = edit(load_dataset(str(stand_ins.ALL_DATA[repo_id]), split="train"))
        folder = tmp_path / "changed" / "data"
        folder.mkdir(parents=True)
        rows.to_parquet(folder / "train-00000-of-00001.parquet")
        changed.append(repo_id)
        hub.commit_folder(repo_id, folder.parent, repo_type="dataset")

    yield change
    stand_ins.publish(hub, names=changed)


def test_a_source_that_renamed_a_column_is_named(stopped, changed_source):
    changed_source(sources.SEVEN[0].repository, lambda rows: rows.rename_column("rating_chosen", "score_chosen"))
    message = stopped("02", "ValueError", **FEW)
    assert message.startswith(
        "Source capybara (argilla/distilabel-capybara-dpo-7k-binarized) has no column rating_chosen"
    )
    assert "score_chosen" in message and "rating_rejected" in message


def test_a_score_that_is_no_number_names_the_row(stopped, changed_source):
    def as_words(rows):
        words = ["five"] * len(rows)
        return rows.remove_columns("chosen_rating").add_column("chosen_rating", words)

    changed_source(sources.SEVEN[3].repository, as_words)
    message = stopped("02", "ValueError", **FEW)
    assert (
        "Source math" in message and "column chosen_rating should hold numbers, and row 0 (counted from 0)" in message
    )


def test_a_row_that_is_no_pair_is_named_and_counted_among_the_dropped(run, changed_source, tmp_path):
    def without_answer(rows):
        return rows.map(lambda row, number: {"chosen": None} if number == 4 else row, with_indices=True)

    changed_source(sources.SEVEN[0].repository, without_answer)
    run("02", **FEW)
    report = json.loads((tmp_path / "mix" / "report.json").read_text())["sources"]["capybara"]
    assert report["dropped"]["broken row"] == 1
    assert report["rows"] == report["train"] + report["test"] + sum(report["dropped"].values())
    assert "column chosen is None" in (tmp_path / "02_mix_preference_data.ipynb").read_text()


def test_a_source_that_changed_since_it_was_published_is_told_loudly(run, changed_source, tmp_path):
    folder = stand_ins.ALL_DATA[sources.SEVEN[0].repository]
    card = (folder / "README.md").read_text()

    def fewer(rows):
        (tmp_path / "changed").mkdir()
        (tmp_path / "changed" / "README.md").write_text(card)
        return rows.select(range(5, len(rows)))

    changed_source(sources.SEVEN[0].repository, fewer)
    run("02", **FEW)
    executed = (tmp_path / "02_mix_preference_data.ipynb").read_text()
    assert (
        re.search(r"\d+ of \d+ rows taken, \d+ expected \(-[1-5]\)", executed) and "the source has changed" in executed
    )


@pytest.mark.parametrize(
    "parameters",
    [{"SOURCES": ["capybara", "some-lab/never-made"], "BENCHMARKS": []}, {**FEW, "BENCHMARKS": ["arc", "mmlu"]}],
    ids=["source", "benchmark"],
)
def test_what_cannot_be_reached_stops_the_mix_unless_told_otherwise(stopped, run, hub, tmp_path, parameters):
    lost = "never-made" if "some-lab/never-made" in parameters["SOURCES"] else "arc"
    hub.repos.pop(("dataset", "allenai/ai2_arc"), None)
    try:
        message = stopped("02", "FileNotFoundError", **parameters)
        assert "has no dataset" in message and f"To go on without {lost}, set SKIP_UNREACHABLE = True." in message
        figures = run("02", SKIP_UNREACHABLE=True, **parameters)
    finally:
        stand_ins.publish(hub, names=["allenai/ai2_arc"])
    report = json.loads((tmp_path / "mix" / "report.json").read_text())
    entry = (report["sources"] | report["benchmarks"])[lost]
    assert figures["left_out"] == [lost] and "has no dataset" in entry["left_out"] and "rows" not in entry
    assert "could not be reached" in (tmp_path / "mix" / "README.md").read_text()


def test_nothing_left_of_a_mix_stops_with_the_account(stopped):
    message = stopped("02", "ValueError", **FEW, MAX_LENGTH=16)
    assert message.startswith("No pair is left to train on. 0 of ") and "prompt too long" in message


def test_a_token_that_may_only_read_stops_a_push_before_anything_is_loaded(stopped, hub):
    seen = len(hub.requests)
    message = stopped("02", "NotReady", PUSH_TO_HUB=True, environment={"HF_TOKEN": "practice-read"}, **FEW)
    assert "role write" in message
    assert not [path for method, path, _ in hub.requests[seen:] if ".parquet" in path and method == "GET"]


# --- bases -----------------------------------------------------------------------------------------------------


def config_of(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_base_with_code_is_refused_and_nothing_runs(stopped, put, tmp_path):
    ran = tmp_path / "ran"

    def add_code(folder):
        config_of(folder, model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Model"})
        (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').write('it ran')\n")

    message = stopped("03", "NotReady", BASE_MODEL=put("learner/with-code", add_code))
    assert "brings code of its own" in message and "What to do: choose a base that continues text" in message
    assert not ran.exists()


def test_data_with_a_script_is_refused_and_nothing_runs(stopped, hub, tmp_path):
    ran, folder = tmp_path / "ran", tmp_path / "data"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(ran)!r}, 'w').write('it ran')\n")
    hub.add_repo("learner/scripted", "dataset", exist_ok=True)
    hub.commit_folder("learner/scripted", folder, repo_type="dataset")
    message = stopped("03", "ValueError", DATASET="learner/scripted")
    assert "cannot be loaded without running its code" in message and not ran.exists()


def test_a_base_of_pickles_is_refused(stopped, put):
    name = put("learner/pickles", lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"))
    assert "weights are pickles only, which may hold code. What to do" in stopped("03", "NotReady", BASE_MODEL=name)


def test_a_truncated_base_is_named(run, put):
    def cut(folder):
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[:-4096])

    with pytest.raises(runner.NotebookFailed, match="model.safetensors of learner/cut is truncated or damaged where"):
        run("03", BASE_MODEL=put("learner/cut", cut))


def test_a_bit_flipped_on_the_way_down_is_found(run, put, hub):
    name = put("learner/flipped")
    hub.inject("learner/flipped/resolve/.*safetensors", flip=True, method="GET")
    message = "model.safetensors of learner/flipped did not arrive as the Hub lists it.*run this cell again"
    with pytest.raises(runner.NotebookFailed, match=message):
        run("03", BASE_MODEL=name)


def test_a_gated_base_names_the_page_and_the_mirror(stopped, put, hub):
    name, nobody = put("meta-llama/Meta-Llama-3-8B", gated=True), {"HF_TOKEN": ""}
    message = stopped("03", "NotReady", environment=nobody, BASE_MODEL=name)
    assert f"accept its licence at {hub.url}/{name}" in message
    assert f"its ungated mirror {stand_ins.BASE_MODEL}" in message
    assert "no access yet" in stopped("00", "NotReady", environment=nobody, BASE_MODEL=name)


@pytest.mark.parametrize("name", ["learner/no-such-base", "./no such folder"])
def test_a_base_that_is_not_there_is_told(stopped, name):
    assert name in stopped("03", "FileNotFoundError", BASE_MODEL=name)


def test_a_base_too_large_stops_with_the_profiles_that_would_fit(stopped, put):
    def grow(folder):
        LlamaConfig(**memory.LLAMA_3_8B).save_pretrained(folder)

    message = stopped("03", "NotReady", BASE_MODEL=put("learner/llama-3-8b-shape", grow))
    assert "Device: " in message and "a GPU of profile t4 or l4 or a100 or h100" in message


def test_a_base_too_large_for_this_memory_stops(stopped, put):
    """Few weights, but the logits of a vocabulary and a length that no machine here holds."""

    def widen(folder):
        LlamaConfig(vocab_size=128_256, hidden_size=64, num_hidden_layers=1, num_attention_heads=2).save_pretrained(
            folder
        )
        config_of(folder, max_position_embeddings=1_000_000)

    message = stopped("03", "NotReady", BASE_MODEL=put("learner/wide", widen), MAX_LENGTH=100_000)
    assert message.startswith("Memory: ") and "What to do: take a smaller base" in message


@pytest.mark.parametrize("number", ["00", "03", "05"])
def test_a_hub_out_of_reach_is_told_in_one_sentence(stopped, trained, number):
    message = stopped(number, "ConnectionError", environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "The Hub at http://127.0.0.1:9" in message and "run this cell again" in message


# --- tokens ----------------------------------------------------------------------------------------------------

READ_ONLY = {"HF_TOKEN": "practice-read"}
TOKENS = {
    "none": ({"HF_TOKEN": ""}, "learner", "NotReady", "no token that the Hub knows. What to do: make one with"),
    "unknown": ({"HF_TOKEN": "hf_nobody"}, "learner", "PermissionError", "does not know your HF_TOKEN.*make a new one"),
    "may only read": (READ_ONLY, "learner", "NotReady", "role read. What to do: this one may only read"),
    "foreign namespace": ({}, "somebody", "NotReady", "learner cannot write to somebody/run. What to do: choose one"),
}


@pytest.mark.parametrize("case", TOKENS)
@pytest.mark.parametrize("number", ["03", "05"])
def test_a_token_that_cannot_write_stops_before_any_work(trained, stopped, number, case):
    environment, owner, kind, told = TOKENS[case]
    parameters = {"KEEP_REPO": f"{owner}/run"}
    if number == "05":
        parameters = {"PUSH_TO_HUB": True, "ADAPTER_REPO": f"{owner}/run", "MERGED_REPO": "learner/Llama-3-x"}
    assert re.search(told, stopped(number, kind, environment=environment, **parameters))


def test_a_merged_name_that_the_licence_forbids_stops_before_the_merge(trained, stopped):
    message = stopped("05", "NotReady", MERGED_REPO="learner/my-model")
    assert "learner/my-model does not begin with Llama-3" in message and "learner/Llama-3-my-model" in message


# --- curves ----------------------------------------------------------------------------------------------------


def test_04_without_a_run_says_where_to_get_one(stopped):
    assert "Run 03_train_with_orpo first" in stopped("04", "FileNotFoundError")


def test_04_shows_what_can_be_shown_of_another_trainers_run_that_goes_on(run, tmp_path):
    """No evaluation, no rewards, and not at its end."""
    kept = json.loads((DATA / "runs" / "healthy" / "trainer_state.json").read_text())
    log = [entry for entry in kept["log_history"] if "loss" in entry and entry["step"] <= 60]
    for entry in log:
        for key in [key for key in entry if re.search("logps|rewards|odds|nll", key)]:
            del entry[key]
    state = kept | {"log_history": log, "global_step": 60}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    findings = run("04", RUN=str(tmp_path))["findings"]
    assert {"no evaluation", "not at its end", "another trainer"} <= set(findings)


def test_05_without_an_adapter_says_which_notebook_makes_it(stopped):
    message = stopped("05", "FileNotFoundError")
    assert "Run 03_train_with_orpo first" in message and "KEEP_REPO" in message


@pytest.mark.parametrize(
    "way, path, told",
    [
        (
            "up",
            "learner/Llama-3-up.git/info/lfs",
            "The Hub at .* failed for learner/Llama-3-up .*: run this cell again",
        ),
        (
            "down",
            "learner/Llama-3-down/resolve/.*safetensors",
            "learner/Llama-3-down at .* does not hold what was pushed",
        ),
    ],
)
def test_a_bit_flipped_by_the_push_or_the_read_back_is_found(trained, run, hub, way, path, told):
    hub.inject(path, flip=True, method="PUT" if way == "up" else "GET")
    with pytest.raises(runner.NotebookFailed, match=told):
        run("05", MERGED_REPO=f"learner/Llama-3-{way}")


# --- secrets ---------------------------------------------------------------------------------------------------


def leaks(folder, values: list[str]) -> list[str]:
    """List the files under a folder, of any kind, that hold one of these values."""
    found = []
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        found += [str(path.relative_to(folder)) for value in values if value.encode() in data]
    return found


def test_no_secret_is_in_an_output_a_parameter_or_a_log(run, hub, write_pairs, tmp_path):
    """Notebooks 00, 03 and 05 with a Hub token and a W&B key of the real forms; the Hub's own folder lies elsewhere."""
    key = "".join(secrets.choice("0123456789abcdef") for _ in range(40))
    token = "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))
    hub.tokens[token] = hub.tokens[runner.TOKEN]
    environment = {"WANDB_API_KEY": key, "HF_TOKEN": token}
    run("00", environment=environment)
    run("03", environment=environment, DATASET=write_pairs(rows()), KEEP_REPO="learner/small-run", SAVE_STEPS=2)
    run("05", environment=environment)
    assert (
        len(list(tmp_path.glob("*.ipynb"))) == 3 and list(tmp_path.rglob("*.wandb")) and list(tmp_path.rglob("*.log"))
    )
    assert leaks(tmp_path, [token, key]) == []
    published = [hub.files(f"learner/Llama-3-8B-ORPO{end}") for end in ("", "-adapter")]
    assert all(len(files) > 5 for files in published)


@pytest.mark.parametrize("place", ["output", "injected parameters", "metadata", "log"])
def test_a_secret_that_is_left_is_found(tmp_path, place):
    """The check above sees each place where papermill and W&B could leave one."""
    import nbformat

    secret = "".join(secrets.choice(string.ascii_letters) for _ in range(34))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    if place == "output":
        notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text=f"using {secret}")]
    if place == "injected parameters":
        notebook.cells[0].source = f'# Parameters\nHF_TOKEN = "{secret}"'
    if place == "metadata":
        notebook.metadata["papermill"] = {"parameters": {"HF_TOKEN": secret}}
    nbformat.write(notebook, tmp_path / "run.ipynb")
    (tmp_path / "debug.log").write_text(secret if place == "log" else "")
    assert leaks(tmp_path, [secret]) == ["debug.log" if place == "log" else "run.ipynb"]


def test_a_secret_given_as_a_parameter_is_refused_before_papermill_writes_it(run, tmp_path):
    with pytest.raises(NameError, match="no parameter HF_TOKEN"):
        run("03", HF_TOKEN=runner.TOKEN)
    assert leaks(tmp_path, [runner.TOKEN]) == []
