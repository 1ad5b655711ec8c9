"""What decides a value, where each value comes from, and what the hardware decides instead."""

import json
from dataclasses import fields, replace

import pytest

from utils.environment import Device
from utils.train import profiles, recipes

SETTINGS = {field.name for field in fields(recipes.Recipe)} - {"name", "sources"}


# --- recipes ---------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_designs():
    recipe, _ = recipes.resolve("course-llama3")
    chosen = (recipe.learning_rate, recipe.beta, recipe.num_epochs, recipe.effective_batch, recipe.max_length)
    assert chosen == (8e-5, 0.1, 1.0, 8, 1024)
    assert (recipe.base_model, recipe.dataset, recipe.dataset_revision) == (
        "NousResearch/Meta-Llama-3-8B",
        "mlabonne/orpo-dpo-mix-40k",
        "v1.0",
    )
    assert recipe.num_eval_pairs == 200 and not recipe.truncate_answers and recipe.lora_dropout == 0


def test_the_articles_recipe_has_the_articles_values():
    recipe, _ = recipes.resolve("article-llama3")
    assert (recipe.num_pairs, recipe.num_eval_pairs) == (990, 10)
    assert (recipe.learning_rate, recipe.lr_scheduler_type, recipe.warmup_steps) == (8e-6, "linear", 10)
    assert (recipe.beta, recipe.num_epochs, recipe.max_length, recipe.truncate_answers) == (0.1, 1, 1024, True)
    assert (recipe.lora_r, recipe.lora_alpha, recipe.lora_dropout) == (16, 32, 0.05)
    assert sorted(recipe.target_modules) == sorted("up_proj down_proj gate_proj k_proj q_proj v_proj o_proj".split())
    assert (recipe.optim, recipe.dataset_revision) == ("paged_adamw_8bit", "v1.0")
    l4 = profiles.PROFILES["l4"]  # the article's GPU: 2 pairs x 4
    assert (l4.micro_batch, profiles.accumulation(l4, recipe.effective_batch)) == (2, 4)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_parameter_beats_the_recipe_and_the_recipe_the_default(name):
    recipe, sources = recipes.resolve(name, learning_rate=3e-4, beta=None)
    assert (recipe.learning_rate, sources["learning_rate"]) == (3e-4, "your parameter")
    assert recipe.beta == recipes.RECIPES[name].beta and sources["beta"] != "your parameter"
    untouched = SETTINGS - {"learning_rate"}
    assert all(getattr(recipe, key) == getattr(recipes.RECIPES[name], key) for key in untouched)
    assert all(sources[key] != "your parameter" for key in untouched)


def test_none_leaves_every_value():
    for name, expected in recipes.RECIPES.items():
        recipe, sources = recipes.resolve(name, **dict.fromkeys(SETTINGS))
        assert recipe == expected and "your parameter" not in sources.values()


@pytest.mark.parametrize("field, value", [("warmup_steps", 0), ("truncate_answers", False), ("lora_dropout", 0.0)])
def test_a_parameter_that_is_zero_or_false_is_not_none(field, value):
    recipe, sources = recipes.resolve("article-llama3", **{field: value})
    assert getattr(recipe, field) == value and sources[field] == "your parameter"


def test_the_article_departs_from_the_course_only_where_it_says_so():
    course, article = recipes.RECIPES["course-llama3"], recipes.RECIPES["article-llama3"]
    departures = {key for key in SETTINGS if getattr(course, key) != getattr(article, key)}
    assert departures == set(dict(article.sources))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_value_has_a_source(name):
    recipe, sources = recipes.resolve(name)
    assert set(sources) == SETTINGS and all(text.strip() for text in sources.values())
    rows = recipes.as_rows(recipe, sources)
    assert {row["setting"] for row in rows} == SETTINGS and len(rows) == len(SETTINGS)
    assert all(row["source"] == sources[row["setting"]] for row in rows)
    shown = {row["setting"]: row["value"] for row in rows}
    assert shown["learning_rate"] == str(recipe.learning_rate)
    assert shown["target_modules"] == ", ".join(recipe.target_modules)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_departs_from_the_course_only_where_it_says_so(name):
    """And what is said of Llama 3, its article and its data is said of no other base and no other data."""
    course, recipe = recipes.RECIPES["course-llama3"], recipes.RECIPES[name]
    departures = {key for key in SETTINGS if getattr(course, key) != getattr(recipe, key)}
    assert departures <= set(dict(recipe.sources)) and set(dict(recipe.sources)) <= SETTINGS
    of_the_data = {"dataset", "dataset_revision", "num_pairs"} if recipe.dataset != course.dataset else set()
    of_the_base = {"base_model", "learning_rate", "beta"} if recipe.base_model != course.base_model else set()
    assert of_the_data | of_the_base <= set(dict(recipe.sources))


# Each row: what must be so for the run to be the one that the recipe is named after.
NAMED = {
    "lazyorpo-phi2": ("microsoft/phi-2", "argilla/dpo-mix-7k", 5e-6, 100, 4, 2048),
    "paper-hh": ("microsoft/phi-2", "Anthropic/hh-rlhf", 8e-5, 10, 8, 1024),
    "stack-llama2-dpo": ("NousResearch/Llama-2-7b-hf", "lvwerra/stack-exchange-paired", 8e-5, 100, 16, 1024),
    "small": ("HuggingFaceTB/SmolLM2-135M", "argilla/dpo-mix-7k", 2e-4, 10, 8, 1024),
}


@pytest.mark.parametrize("name, values", NAMED.items())
def test_a_recipe_has_the_values_of_the_run_it_is_named_after(name, values):
    recipe, _ = recipes.resolve(name)
    rate = recipe.learning_rate, recipe.warmup_steps
    assert (recipe.base_model, recipe.dataset, *rate, recipe.effective_batch, recipe.max_length) == values
    assert (recipe.dataset_revision, recipe.num_epochs) == (None, 1)


def test_the_recipe_of_stack_llama_trains_what_the_example_trains():
    recipe = recipes.RECIPES["stack-llama2-dpo"]
    assert recipe.target_modules == ("q_proj", "v_proj") and (recipe.lora_r, recipe.lora_alpha) == (8, 16)
    assert (recipe.sft_learning_rate, recipe.dpo_learning_rate) == (1e-4, 5e-4)
    assert recipe.stream_rows > recipe.num_pairs + recipe.num_eval_pairs == 16_200
    others = [other for other in recipes.RECIPES.values() if other != recipe]
    assert {(other.sft_learning_rate, other.dpo_learning_rate) for other in others} == {(2e-4, 5e-6), (2e-4, 5e-5)}
    assert {other.stream_rows for other in others} == {None}


def test_a_recipe_whose_data_have_a_warning_says_it():
    warned = [recipe for recipe in recipes.RECIPES.values() if recipe.warning]
    assert [recipe.name for recipe in warned] == ["paper-hh"]
    assert "warns against supervised training" in warned[0].warning
    assert recipes.as_dict(warned[0])["warning"] == warned[0].warning
    other, _ = recipes.resolve("paper-hh", dataset="argilla/dpo-mix-7k")
    assert not other.warning and "warning" not in recipes.as_dict(other)
    assert recipes.resolve("course-llama3", dataset="Anthropic/hh-rlhf")[0].warning == warned[0].warning


def test_another_data_set_than_a_recipes_is_not_streamed():
    recipe, sources = recipes.resolve("stack-llama2-dpo", dataset="argilla/dpo-mix-7k")
    assert recipe.stream_rows is None and sources["stream_rows"] == recipes.DEFAULT_SOURCES["stream_rows"]
    assert recipes.resolve("stack-llama2-dpo")[0].stream_rows == 30_000


def test_another_data_set_drops_the_recipes_revision():
    recipe, sources = recipes.resolve("course-llama3", dataset="argilla/dpo-mix-7k")
    assert (recipe.dataset, recipe.dataset_revision) == ("argilla/dpo-mix-7k", None)
    assert sources["dataset"] == "your parameter"
    # Nobody asked for this revision, and it is not the article's rows either.
    assert sources["dataset_revision"] not in ("your parameter", recipes.DEFAULT_SOURCES["dataset_revision"])


def test_another_data_set_keeps_the_revision_that_came_with_it():
    recipe, sources = recipes.resolve("course-llama3", dataset="argilla/dpo-mix-7k", dataset_revision="v2")
    assert (recipe.dataset_revision, sources["dataset_revision"]) == ("v2", "your parameter")


def test_the_recipes_own_data_set_keeps_the_recipes_revision():
    recipe, _ = recipes.resolve("course-llama3", dataset="mlabonne/orpo-dpo-mix-40k")
    assert recipe.dataset_revision == "v1.0"
    recipe, sources = recipes.resolve("course-llama3", dataset_revision="main")
    assert (recipe.dataset_revision, sources["dataset_revision"]) == ("main", "your parameter")


def test_an_unknown_recipe_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no recipe 'article-lama3'.*course-llama3, article-llama3"):
        recipes.resolve("article-lama3")


@pytest.mark.parametrize("field", ["learning_rat", "sources"])
def test_an_unknown_field_is_refused_with_those_there_are(field):
    with pytest.raises(ValueError, match=f"no value {field}.*learning_rate"):
        recipes.resolve("course-llama3", **{field: None})


def test_a_recipe_goes_into_json():
    values = recipes.as_dict(recipes.RECIPES["article-llama3"])
    assert set(values) == SETTINGS | {"name"}
    again = json.loads(json.dumps(values))
    assert again["learning_rate"] == 8e-6 and again["target_modules"] == list(recipes.ATTENTION + recipes.MLP)


# --- profiles --------------------------------------------------------------------------------------------------


def gpu(name: str, memory_gb: float) -> Device:
    return Device("cuda", name, memory_gb, "bfloat16", "a test")


@pytest.mark.parametrize(
    "device, expected, reason",
    [
        # names and sizes as CUDA reports them
        (gpu("Tesla T4", 15.64), "t4", "is a Tesla T4"),
        (gpu("NVIDIA L4", 23.58), "l4", "is a NVIDIA L4"),
        (gpu("NVIDIA A100-SXM4-40GB", 42.41), "a100", "is a NVIDIA A100"),
        (gpu("NVIDIA A100-SXM4-80GB", 85.1), "a100", "is a NVIDIA A100"),
        (gpu("NVIDIA A100 80GB PCIe", 85.1), "a100", "is a NVIDIA A100"),
        (gpu("NVIDIA H100 80GB HBM3", 84.93), "h100", "is a NVIDIA H100"),
        (gpu("NVIDIA H200", 150.1), "h100", "is a NVIDIA H200"),
        (gpu("NVIDIA GeForce RTX 4090", 25.25), "l4", "not listed"),
        (gpu("NVIDIA L40S", 47.7), "a100", "not listed"),  # no L4, and twice as large
        (gpu("NVIDIA RTX PRO 6000 Blackwell Server Edition", 101.9), "h100", "not listed"),
        (gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4.9), "t4", "less than the smallest"),
        (gpu("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20.9), "t4", "not listed"),
        (gpu("NVIDIA T400 4GB", 4.1), "t4", "less than the smallest"),
        (gpu("NVIDIA GeForce RTX 3050 Laptop GPU", 6.4), "t4", "has 6 GB, less than the smallest"),
        (Device("cpu", "2 CPU cores", 8.0, "float32", "a test"), "cpu", "no GPU"),
    ],
    ids=lambda value: value.name if isinstance(value, Device) else "",
)
def test_the_profile_of_a_device(device, expected, reason):
    profile, why = profiles.choose_profile(device)
    assert profile.name == expected
    assert reason in why


def test_no_profile_is_chosen_that_asks_for_more_than_there_is():
    for memory_gb in range(16, 160, 4):
        profile, _ = profiles.choose_profile(gpu("Some GPU", memory_gb))
        assert profile.memory_gb <= memory_gb * 1.1
        larger = [p for p in profiles.PROFILES.values() if profile.memory_gb < p.memory_gb <= memory_gb]
        assert not larger


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_the_profile_that_is_asked_for_wins(name):
    profile, why = profiles.choose_profile(gpu("NVIDIA L4", 23.58), name)
    assert profile == profiles.PROFILES[name] and profile.name == name and "you asked" in why


def test_an_unknown_profile_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no profile 'v100'.*cpu, t4, l4, a100, h100"):
        profiles.choose_profile(gpu("NVIDIA L4", 23.58), "v100")


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=lambda profile: profile.name)
def test_a_step_sees_the_same_pairs_on_every_gpu(profile, recipe):
    batch = recipe.effective_batch
    for trainer in ("trl", "fused", "fast"):
        assert profiles.accumulation(profile, batch, trainer) * profile.pairs_in_a_pass(trainer, batch) == batch


def test_a_small_batch_is_one_pass():
    assert profiles.accumulation(profiles.PROFILES["h100"], 2) == 1
    assert profiles.accumulation(profiles.PROFILES["t4"], 1) == 1
    assert profiles.accumulation(profiles.PROFILES["t4"], 2, "fused") == 1


def test_a_packed_row_takes_whole_passes_of_the_stock_trainer():
    """Its NLL is averaged over groups of as many pairs, so that both trainers compute the same."""
    for profile in profiles.PROFILES.values():
        assert profile.packed_batch > profile.micro_batch or profile.packed_batch == 8
        assert profile.packed_batch % profile.micro_batch == 0


def test_micro_batches_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="4 pairs .profile a100. do not add up to 6"):
        profiles.accumulation(profiles.PROFILES["a100"], 6)
    odd = replace(profiles.PROFILES["h100"], micro_batch=3)
    with pytest.raises(ValueError, match="3 pairs .*do not add up to 8"):
        profiles.accumulation(odd, 8)


def test_hardware_decides_nothing_that_a_recipe_decides():
    assert not {field.name for field in fields(profiles.Profile)} & SETTINGS


@pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=lambda profile: profile.name)
def test_every_number_has_its_reason(profile):
    assert profile.why_micro_batch and profile.why_recompute
    assert profile.dtype == {"cpu": "float32", "t4": "float16"}.get(profile.name, "bfloat16")


def test_profiles_grow_with_the_memory():
    gpus = [profile for profile in profiles.PROFILES.values() if profile.gpus]
    for smaller, larger in zip(gpus, gpus[1:], strict=False):
        assert smaller.memory_gb < larger.memory_gb and smaller.micro_batch <= larger.micro_batch


@pytest.mark.parametrize("name", ["num_pairs", "num_eval_pairs", "effective_batch", "max_length", "lora_r"])
def test_a_count_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name.upper()} = 0 leaves nothing to do"):
        recipes.resolve("course-llama3", **{name: 0})


def test_the_recipes_number_of_pairs_says_nothing_about_other_data():
    recipe, source = recipes.resolve("course-llama3", dataset="lab/pairs")
    assert recipe.num_pairs is None and source["num_pairs"] == "all of your data" and recipe.dataset_revision is None
    assert recipes.resolve("course-llama3", dataset="lab/pairs", num_pairs=5)[0].num_pairs == 5
    assert recipes.resolve("course-llama3")[0].num_pairs == 1000


def test_a_recipe_is_fitted_to_what_a_base_can_do():
    recipe, source = recipes.resolve("course-llama3")
    modules = list(recipe.target_modules)
    assert recipes.fit_to_base(recipe, source, None, modules) == (recipe, source)
    assert recipes.fit_to_base(recipe, source, 8192, [*modules, "more"]) == (recipe, source)
    fitted, why = recipes.fit_to_base(recipe, source, 512, ["q_proj", "dense"])
    assert fitted.max_length == 512 and "1024 were asked for" in why["max_length"]
    assert fitted.target_modules == ("q_proj", "dense") and "no k_proj" in why["target_modules"]
    assert source["max_length"] != why["max_length"]  # the table it came from is left alone


# --- the mix of notebook 02 ------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """A folder with a mix."""
    (tmp_path / "report.json").write_text("{}")
    return tmp_path


def test_a_mix_takes_the_place_of_the_courses_own_data(mixed):
    before = recipes.resolve("course-llama3", learning_rate=3e-4)
    recipe, source = recipes.take_mix(*before, mixed)
    assert (recipe.dataset, recipe.dataset_revision) == (str(mixed), None)
    assert source["dataset"] == "the mix of notebook 02" and "a folder has none" in source["dataset_revision"]
    changed = {"dataset", "dataset_revision"}
    assert all(getattr(recipe, key) == getattr(before[0], key) for key in SETTINGS - changed)
    assert {key: source[key] for key in SETTINGS - changed} == {key: before[1][key] for key in SETTINGS - changed}
    assert before[1]["dataset"] == recipes.DEFAULT_SOURCES["dataset"]  # the table it came from is left alone
    assert recipes.take_mix(*before, str(mixed)) == (recipe, source)


@pytest.mark.parametrize("dataset", ["mlabonne/orpo-dpo-mix-40k", "argilla/dpo-mix-7k", "my.jsonl"])
def test_data_that_were_asked_for_stay(mixed, dataset):
    before = recipes.resolve("course-llama3", dataset=dataset)
    assert recipes.take_mix(*before, mixed) == before


def test_a_revision_that_was_asked_for_is_one_of_the_mix_on_the_hub(mixed):
    before = recipes.resolve("course-llama3", dataset_revision="v1.2")
    assert recipes.take_mix(*before, mixed) == before


def test_a_recipe_that_repeats_a_run_keeps_its_data(mixed):
    before = recipes.resolve("article-llama3")
    assert recipes.take_mix(*before, mixed) == before


def test_a_mix_that_is_not_there_or_not_whole_is_not_taken(tmp_path):
    before = recipes.resolve("course-llama3")
    assert recipes.take_mix(*before, tmp_path / "nowhere") == before
    (tmp_path / "train.parquet").touch()
    (tmp_path / "README.md").touch()
    assert recipes.take_mix(*before, tmp_path) == before
    (tmp_path / "report.json").mkdir()
    assert recipes.take_mix(*before, tmp_path) == before
