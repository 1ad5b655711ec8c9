"""A recipe goes elsewhere whole: each tool knows every field, each value arrives, and the tokens are notebook 03's."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, DatasetDict

from utils.data import chat_format, render_pair
from utils.practice import stand_ins
from utils.publish.export import TOOLS, configure_tool, write_export

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "data" / "tool_fields.json").read_text())
SETTINGS = {
    "BASE_MODEL": "NousResearch/Llama-2-7b-hf",
    "DATASET": "lvwerra/stack-exchange-paired",
    "MAX_LENGTH": 1024,
    "LEARNING_RATE": 1.25e-6,
    "BETA": 0.3,
    "NUM_EPOCHS": 2,
    "MORE": {
        "warmup_steps": 100,
        "effective_batch": 16,
        "lora_r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
        "optimizer": "paged_adamw_32bit",
        "scheduler": "cosine",
        "truncate_answers": False,
        "seed": 7,
    },
}


def changed(**parameters) -> dict:
    """The settings with other values, those of MORE in lower case."""
    more = {key: value for key, value in parameters.items() if key.islower()}
    above = {key: value for key, value in parameters.items() if key.isupper()}
    return SETTINGS | above | {"MORE": SETTINGS["MORE"] | more}


def configuration(tool: str, settings=SETTINGS, train_pairs: int = 160, **options) -> dict:
    return yaml.safe_load(configure_tool(tool, settings, train_pairs, **options))


def leaves(settings: dict) -> dict:
    """Nested settings as one level: what is asked of a tool, and of which of its own fields."""
    flat = {}
    for key, value in settings.items():
        flat |= leaves(value) if isinstance(value, dict) else {key: value}
    return flat


def known_fields(tool: str) -> dict[str, list | None]:
    """The fields that a tool knows, with their choices: as recorded from its package, or as installed."""
    if tool == "trl-cli":
        from trl import ModelConfig, ScriptArguments
        from trl.experimental.orpo import ORPOConfig

        return {field.name: None for kind in (ScriptArguments, ORPOConfig, ModelConfig) for field in fields(kind)}
    recorded = RECORDED[tool]
    known = {name: choices for kind in recorded["classes"].values() for name, choices in kind.items()}
    if "BaseTrainingArguments" in recorded["inherits"]:
        from transformers import Seq2SeqTrainingArguments

        known |= {field.name: None for field in fields(Seq2SeqTrainingArguments)}
    return known | dict.fromkeys(recorded["words"])


def unknown(tool: str, settings: dict) -> list[str]:
    """Name the settings that a tool does not know, or may not have this value."""
    known = known_fields(tool)
    parts = {key for key, value in settings.items() if isinstance(value, dict)}
    wrong = [key for key in parts | set(leaves(settings)) if key not in known]
    return wrong + [key for key, it in leaves(settings).items() if known.get(key) and it not in known[key]]


def test_each_tool_knows_every_field():
    for tool, dtype in itertools.product(TOOLS, ("bfloat16", "float16", "float32")):
        settings = configuration(tool, changed(truncate_answers=dtype == "float16"), dtype=dtype)
        assert len(leaves(settings)) > 20 and not unknown(tool, settings), tool
        for rows in settings.get("datasets", []) + settings.get("test_datasets", []):
            assert set(rows) <= set(RECORDED[tool]["classes"]["SFTDataset"])
        assert unknown(tool, settings | {"lora_rnk": 8}) == ["lora_rnk"]
    assert unknown("llama-factory", configuration("llama-factory") | {"pref_loss": "odds"}) == ["pref_loss"]
    assert unknown("axolotl", configuration("axolotl") | {"rl": "orpoo"}) == ["rl"]


# What each tool calls: base, weight of the odds ratio, rate, length, rank, alpha, epochs, pass, passes, schedule.
CALLED = {
    "axolotl": "base_model orpo_alpha learning_rate sequence_len lora_r lora_alpha num_epochs micro_batch_size "
    "gradient_accumulation_steps lr_scheduler optimizer",
    "llama-factory": "model_name_or_path pref_beta learning_rate cutoff_len lora_rank lora_alpha num_train_epochs "
    "per_device_train_batch_size gradient_accumulation_steps lr_scheduler_type optim",
    "autotrain": "base_model dpo_beta lr block_size lora_r lora_alpha epochs batch_size gradient_accumulation "
    "scheduler optimizer",
    "trl-cli": "model_name_or_path beta learning_rate max_length lora_r lora_alpha num_train_epochs "
    "per_device_train_batch_size gradient_accumulation_steps lr_scheduler_type optim",
}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_value_arrives(tool):
    settings = leaves(configuration(tool, micro_batch=4, revision="some-commit"))
    expected = (SETTINGS["BASE_MODEL"], 0.3, 1.25e-6, 1024, 8, 16, 2, 4, 4, "cosine", "paged_adamw_32bit")
    assert tuple(settings[key] for key in CALLED[tool].split()) == expected and settings["seed"] == 7
    modules = next(value for key, value in settings.items() if "target" in key)
    assert modules in (["q_proj", "v_proj"], "q_proj,v_proj")
    assert ("some-commit" in settings.values()) == (tool != "autotrain")
    for rate in (5e-7, 8e-6, 8e-5, 2e-3, 1.0):  # YAML reads 8e-05, as Python writes it, as text
        settings = leaves(configuration(tool, changed(LEARNING_RATE=rate, BETA=rate)))
        assert [settings[key] for key in CALLED[tool].split()[1:3]] == [rate, rate]


def test_what_the_tools_cannot_express_is_refused_or_turned():
    assert leaves(configuration("autotrain", train_pairs=1600))["warmup_ratio"] == 0.5  # 100 of 2 x 100 steps
    assert leaves(configuration("autotrain", train_pairs=8))["warmup_ratio"] == 1
    with pytest.raises(ValueError, match="whole epochs, and 0.5 is none"):
        configuration("autotrain", changed(NUM_EPOCHS=0.5))
    with pytest.raises(ValueError, match="Passes of 3 pairs do not add up to 16"):
        configuration("axolotl", micro_batch=3)
    cut = configuration("axolotl", changed(truncate_answers=True))
    assert (cut["excess_length_strategy"], configuration("axolotl")["excess_length_strategy"]) == ("truncate", "drop")


def test_the_text_says_how_to_start_and_what_the_data_warn_of():
    for tool in TOOLS:
        lines = configure_tool(tool, SETTINGS, 160).splitlines()
        assert lines[0].startswith(f"# {SETTINGS['BASE_MODEL']} on {SETTINGS['DATASET']}, for: ")
        assert not any("warns against" in line for line in lines)
        warned = configure_tool(tool, changed(DATASET="Anthropic/hh-rlhf@main"), 160)
        assert "warns against" in warned and all(len(line) <= 120 for line in warned.splitlines())


# --- the files beside it ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs() -> DatasetDict:
    rows = stand_ins.preference_pairs(12, seed=5)
    return DatasetDict({"train": Dataset.from_list(rows[:8]), "test": Dataset.from_list(rows[8:])})


def test_a_pair_is_rendered_as_the_trainer_renders_it(pairs, tokenizer):
    from trl.data_utils import maybe_apply_chat_template

    for pair in [*pairs["train"], *pairs["test"]]:
        text = render_pair(pair, tokenizer)
        by_trl = maybe_apply_chat_template({key: pair[key] for key in text}, tokenizer)
        assert text == by_trl
        prompt, chosen, rejected = (tokenizer(text[key], add_special_tokens=False)["input_ids"] for key in text)
        assert chat_format.pair_lengths(pair, tokenizer) == (len(prompt), len(chosen), len(rejected))
        assert chosen[-1] == rejected[-1] == tokenizer.eos_token_id and prompt.count(tokenizer.bos_token_id) == 1


def test_a_tool_finds_the_files_that_its_configuration_names(pairs, tokenizer, tmp_path):
    settings = {}
    for tool in TOOLS:
        written = write_export(tmp_path / tool, tool, SETTINGS, pairs, tokenizer, micro_batch=2)
        assert all(path.is_file() for path in written) and written[0].name == f"{tool}.yaml"
        settings[tool] = yaml.safe_load(written[0].read_text())
        assert settings[tool] == configuration(tool, SETTINGS, 8, micro_batch=2)
        for split in ("train", "test"):
            lines = (tmp_path / tool / "pairs" / f"{split}.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in lines] == [render_pair(pair, tokenizer) for pair in pairs[split]]
    assert all((tmp_path / "axolotl" / rows["path"]).is_file() for rows in settings["axolotl"]["datasets"])
    columns = settings["autotrain"]["data"]["column_mapping"].values()
    assert set(columns) == set(render_pair(pairs["train"][0], tokenizer))
    tool = "llama-factory"
    info = json.loads((tmp_path / tool / settings[tool]["dataset_dir"] / "dataset_info.json").read_text())
    assert set(info) == {settings[tool]["dataset"], settings[tool]["eval_dataset"]}
    about = info["train"]
    assert about["ranking"] is True and set(about) | set(about["columns"]) <= set(known_fields(tool))


def test_trls_own_parser_reads_the_configuration(tmp_path):
    from trl import ModelConfig, ScriptArguments, TrlParser
    from trl.experimental.orpo import ORPOConfig

    path = tmp_path / "trl-cli.yaml"
    path.write_text(configure_tool("trl-cli", SETTINGS, 160, dtype="float32"))
    parser = TrlParser((ScriptArguments, ORPOConfig, ModelConfig))
    script, arguments, base = parser.parse_args_and_config(["--config", str(path)], fail_with_unknown_args=True)
    assert (script.dataset_name, base.lora_target_modules) == ("pairs", ["q_proj", "v_proj"])
    assert (arguments.beta, arguments.learning_rate, arguments.warmup_steps) == (0.3, 1.25e-6, 100)
    assert base.load_in_4bit and base.use_bnb_nested_quant and not arguments.bf16
    path.write_text(path.read_text() + "lora_rnk: 8\n")
    with pytest.raises(ValueError, match="lora_rnk"):
        parser.parse_args_and_config(["--config", str(path)], fail_with_unknown_args=True)


@pytest.mark.timeout(180)
def test_the_script_for_trl_trains_the_recipe(pairs, tokenizer, small_base, tmp_path):
    settings = changed(BASE_MODEL=str(small_base), NUM_EPOCHS=1, effective_batch=4, MAX_LENGTH=512)
    write_export(tmp_path, "trl-cli", settings, pairs, tokenizer, micro_batch=2, dtype="float32")
    command = [sys.executable, "train_orpo.py", "--config", "trl-cli.yaml"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    adapter = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (8, 16)
    assert sorted(adapter["target_modules"]) == ["q_proj", "v_proj"]
    assert (tmp_path / "run" / "adapter_model.safetensors").stat().st_size > 10_000
    assert "eval_log_odds_chosen" in done.stdout + done.stderr


def test_the_record_is_made_from_the_source_of_packages(tmp_path):
    """On a package made for it: bases in other files, choices, and what no field is."""
    path = ROOT / "data" / "record_tool_fields.py"
    module = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("record", path))
    spec.loader.exec_module(module)
    source = (
        "class Loss(str, Enum):\n    ORPO = 'orpo'\n"
        "class Base(Elsewhere):\n    rate: float = 1.0\n"
        "class Config(Base):\n    loss: Loss | None = None\n    bits: Literal['fp4', 'nf4'] = 'nf4'\n    plain = 3\n"
    )
    tree = module.ast.parse(source)
    classes = {node.name: node for node in tree.body}
    found, others = module.fields("Config", classes, {"Loss": ["orpo"]})
    assert found == {"rate": None, "loss": ["orpo"], "bits": ["fp4", "nf4"]} and others == ["Elsewhere"]
