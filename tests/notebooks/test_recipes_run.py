"""Every recipe trains, headless, on stand-ins of its base and its data: right architecture, schema and values."""

import json

import pytest
from safetensors.torch import load_file
from support import stand_ins
from support.stand_ins import STACK_EXCHANGE, rows

from utils import hub as hub_access
from utils.data import loading as source_loading
from utils.data.pairs import to_pair
from utils.train import base as bases
from utils.train.recipes import RECIPES

SMALL = {"NUM_PAIRS": 32, "NUM_EVAL_PAIRS": 8, "MAX_NEW_TOKENS": 8, "LEARNING_RATE": None}


@pytest.fixture(scope="module")
def everything(hub):
    """The hub with the bases and the data of all recipes."""
    wanted = {name for recipe in RECIPES.values() for name in (recipe.base_model, recipe.dataset)}
    stand_ins.publish(hub, names=sorted(wanted))
    return hub


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_what_it_says(name, everything, run, tmp_path):
    recipe = RECIPES[name]
    run("03", RECIPE=name, **SMALL)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    ran, arguments = record["recipe"], record["arguments"]
    reads = bases.describe_base(recipe.base_model).skeleton.config.max_position_embeddings
    assert (ran["name"], ran["base_model"], ran["dataset"]) == (name, recipe.base_model, recipe.dataset)
    assert record["revisions"]["base_model"] == hub_access.resolve_revision(recipe.base_model)[0]
    wanted = recipe.dataset, recipe.dataset_revision, "dataset"
    assert record["revisions"]["dataset"] == hub_access.resolve_revision(*wanted)[0]
    assert ran["target_modules"] == list(recipe.target_modules)  # the base has them all: none had to be replaced
    trained = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {key.split(".")[-3] for key in trained} == set(recipe.target_modules)
    assert {tensor.shape[0] for key, tensor in trained.items() if "lora_A" in key} == {recipe.lora_r}
    assert arguments["learning_rate"] == recipe.learning_rate and arguments["beta"] == recipe.beta
    assert arguments["lr_scheduler_type"] == recipe.lr_scheduler_type and arguments["optim"] == recipe.optim
    assert arguments["warmup_steps"] == recipe.warmup_steps
    assert arguments["max_length"] == min(recipe.max_length, reads)
    assert record["micro_batch"] * record["accumulation"] == recipe.effective_batch
    assert record["pairs"] == {"train": 32, "test": 8} and record["steps"] == 32 // recipe.effective_batch
    assert ran.get("warning", "") == recipe.warning
    executed = (tmp_path / "03_train_with_orpo.ipynb").read_text()
    assert (recipe.warning[:60] in executed) if recipe.warning else "warns against" not in executed


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "small"])  # the series compares with that
def test_a_recipe_is_compared_with_sft_and_dpo(name, everything, run, tmp_path):
    recipe = RECIPES[name]
    rates = dict.fromkeys(("LEARNING_RATE", "SFT_LEARNING_RATE", "DPO_LEARNING_RATE"))
    figures = run("08", RECIPE=name, NUM_PAIRS=16, NUM_EVAL_PAIRS=8, WARMUP_STEPS=0, **rates)
    record = json.loads((tmp_path / "comparison" / "results.json").read_text())
    assert record["recipe"]["base_model"] == recipe.base_model and record["recipe"]["dataset"] == recipe.dataset
    assert {key: record["recipe"][key] for key in ("learning_rate", "sft_learning_rate", "dpo_learning_rate")} == {
        key: getattr(recipe, key) for key in ("learning_rate", "sft_learning_rate", "dpo_learning_rate")
    }
    assert record["pairs"] == {"train": 16, "test": 8}
    assert abs(figures["reference_margin_at_start"]) < 1e-3 and figures["reference_off"] < 0.02
    assert all(method["points"][-1]["tokens"] > 0 for method in record["methods"].values())


# --- what a recipe streams -------------------------------------------------------------------------------------


@pytest.fixture
def no_rest(monkeypatch):
    """After a stream, datasets sleeps for five seconds."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.02)


def test_streamed_rows_are_pairs_and_as_many_as_the_recipe_says(everything, no_rest):
    commit = hub_access.resolve_revision(STACK_EXCHANGE, None, "dataset")[0]
    recipe = RECIPES["stack-llama2-dpo"]
    few = type(recipe)(dataset=STACK_EXCHANGE, stream_rows=25)
    table, tested = source_loading.load_recipe(few, commit)
    assert tested is None and len(table) == 25 and table.column_names == ["prompt", "chosen", "rejected"]
    made = {row["question"]: (row["response_j"], row["response_k"]) for row in rows(STACK_EXCHANGE)}
    assert all(made[row["prompt"]] == (row["chosen"], row["rejected"]) for row in table)
    pair = to_pair(table[0])
    assert pair["chosen"][0]["content"] == made[pair["prompt"][0]["content"]][0]
    assert source_loading.load_recipe(few, commit, seed=1)[0]["prompt"][:] != table["prompt"][:]
    assert len(source_loading.load_recipe(recipe, commit)[0]) == len(made)  # all there are, being fewer


def test_data_that_are_known_to_be_too_large_are_streamed_with_any_recipe(everything, no_rest, monkeypatch):
    """Chosen by DATASET, they are not downloaded whole either."""
    monkeypatch.setattr("utils.data.loading.load_splits", lambda *wanted: pytest.fail("31 million rows"))
    commit = hub_access.resolve_revision(STACK_EXCHANGE, None, "dataset")[0]
    table, _ = source_loading.load_recipe(type(RECIPES["small"])(dataset=STACK_EXCHANGE), commit)
    assert {"prompt", "chosen", "rejected"} == set(table.column_names)


def test_the_data_of_the_other_recipes_are_loaded_whole(everything):
    table, tested = source_loading.load_recipe(RECIPES["lazyorpo-phi2"], None)
    assert (len(table), len(tested)) == (240, 60) and "chosen_rating" in table.column_names
