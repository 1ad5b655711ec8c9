"""Test models and made-up data: the real forms, learnable but not yet learnt, and made again when the code changes."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from huggingface_hub import DatasetCard, ModelCard
from safetensors.torch import load_file
from support.stand_ins import ALL_DATA, ALL_MODELS, LLAMA_2, PHI, QWEN, rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from utils import environment
from utils.data import chat_format
from utils.data.sources import OTHERS, SEVEN, apply_rule
from utils.practice import small_world, stand_ins
from utils.practice.hub import PracticeHub


@pytest.fixture(scope="module", params=ALL_MODELS)
def model(request) -> SimpleNamespace:
    """A test model: its folder, tokenizer, network in fp32, and the tensors in its file."""
    folder = ALL_MODELS[request.param]()
    loaded = {"name": request.param, "folder": folder, "tensors": load_file(folder / "model.safetensors")}
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return SimpleNamespace(**loaded, tokenizer=tokenizer, network=network)


def test_a_model_has_the_form_of_the_real_one(model):
    config, tensors, tokenizer = model.network.config, model.tensors, model.tokenizer
    tied = model.name in (stand_ins.SMOLLM2, QWEN)
    assert config.tie_word_embeddings == tied == ("lm_head.weight" not in tensors)
    biases = {name.split(".")[-2] for name in tensors if name.endswith(".bias")}
    if model.name == PHI:
        assert config.vocab_size > len(tokenizer) and tensors["lm_head.bias"].abs().max() > 0.01
    else:
        assert biases == ({"q_proj", "k_proj", "v_proj"} if model.name == QWEN else set())
    begins = tokenizer("Hello")["input_ids"][0] == tokenizer.bos_token_id
    assert begins == (model.name in (stand_ins.BASE_MODEL, LLAMA_2))
    assert (tokenizer.pad_token is None) == (model.name != QWEN)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert {path.suffix for path in model.folder.iterdir()} <= {".safetensors", ".json", ".md", ".jinja", ""}
    licence = ModelCard.load(model.folder / "README.md").data.license
    assert licence in (model.folder / "LICENSE").read_text()
    if model.name == stand_ins.BASE_MODEL:
        assert licence == "llama3"
    for text in ("What is it?", "x = [1, 22, 333]\n\n\tпривет 🙂", "<|im_start|>user\n", "  a  b ", "日本 {  \t§}"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text and max(ids) < len(tokenizer)


def test_the_special_tokens_are_llama_3s(tokenizer):
    first = tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    named = {1: "end_of_text", 6: "start_header_id", 9: "eot_id", 8: "reserved_special_token_4"}
    assert tokenizer.convert_ids_to_tokens([first + place for place in named]) == [f"<|{n}|>" for n in named.values()]


def test_a_base_knows_the_small_world(model):
    """An answer's tokens cost far less than the log of the vocabulary."""
    losses = []
    for pair in small_world.preference_pairs(16, seed=99):
        ids = model.tokenizer.apply_chat_template(
            pair["prompt"] + pair["chosen"], chat_template=chat_format.CHAT_TEMPLATE, return_tensors="pt"
        )
        with torch.no_grad():
            losses.append(model.network(**ids, labels=ids["input_ids"]).loss.item())
    assert sum(losses) / len(losses) < 0.5 * math.log(len(model.tokenizer))


def test_the_base_answers_in_words_and_does_not_stop(small_base, tokenizer):
    network = AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32)
    known, said = set(re.findall(r"\w+", " ".join(small_world.pretraining_text(3000, 0)))), []
    for prompt in environment.course_prompts():
        chat = [{"role": "user", "content": prompt}]
        asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        with torch.no_grad():
            end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
            output = network.generate(**asked, max_new_tokens=40, do_sample=False, eos_token_id=end)
        answer = output[0, asked["input_ids"].shape[1] :]
        assert len(answer) == 40
        said += re.findall(r"\w+", tokenizer.decode(answer))[:-1]  # the last may be cut
    assert sum(word in known for word in said) > 0.9 * len(said) > 45 and len(set(said)) > 20


def test_a_change_of_the_code_is_a_new_model(tmp_path, monkeypatch):
    """The cache holds a model under the hash of the code that makes it, and an interrupted build is not taken."""
    copy = tmp_path / "utils" / "practice"
    copy.mkdir(parents=True)
    for name in ("stand_ins.py", "small_world.py"):
        shutil.copy(Path(stand_ins.__file__).with_name(name), copy / name)
    shutil.copy(environment.__file__, tmp_path / "utils" / "environment.py")
    code = """from pathlib import Path; from utils.practice import stand_ins
stand_ins.CACHE, stand_ins._build_model = Path("cache"), lambda *given: None
print(stand_ins.small_base().name)"""

    def name_of_the_folder() -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    first = name_of_the_folder()
    assert first == stand_ins.small_base().name == name_of_the_folder()
    for name in ("stand_ins.py", "small_world.py"):
        (copy / name).write_text((copy / name).read_text() + "# changed\n")
    assert name_of_the_folder() != first

    monkeypatch.setattr(stand_ins, "CACHE", tmp_path / "broken")
    monkeypatch.setattr(stand_ins, "_build_model", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stand_ins.small_base()
    assert not list((tmp_path / "broken").glob("*[!t]"))  # but for what is named .part


def test_building_leaves_the_learners_random_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_ins, "CACHE", tmp_path)
    monkeypatch.setattr(stand_ins, "pretrain", lambda *given: torch.rand(1))
    monkeypatch.setattr(stand_ins, "pretraining_text", lambda documents, seed: ["What is it? A cat."] * 20)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    stand_ins.small_base()
    assert torch.equal(torch.rand(3), expected)


def test_the_series_finds_all_that_it_asks_for(hub, tmp_path):
    fresh = PracticeHub(tmp_path)
    stand_ins.publish(fresh)
    assert {name for kind, name in fresh.repos if kind == "model"} == set(stand_ins.MODELS)
    assert {name for kind, name in fresh.repos if kind == "dataset"} == set(stand_ins.data_sets())
    head = fresh.files(stand_ins.ORPO_MIX, "dataset")
    assert fresh.files(stand_ins.ORPO_MIX, "dataset", revision="v1.0") == head
    commits = {key: len(repo["commits"]) for key, repo in hub.repos.items()}
    stand_ins.publish(hub)  # twice changes nothing
    assert {key: len(repo["commits"]) for key, repo in hub.repos.items()} == commits


def test_a_source_has_the_real_columns_and_says_how_many_rows_its_rule_keeps():
    for source in (*SEVEN, *OTHERS):
        card = DatasetCard.load(ALL_DATA[source.repository] / "README.md").data
        table = Dataset.from_list(rows(source.repository))
        assert set(source.needs) <= set(table.column_names), source
        kept = apply_rule(source, table.select_columns(source.needs)).reason.isna().sum()
        assert card["rows_kept"] == kept, source


def test_no_prompt_is_asked_twice_and_none_is_the_courses_own():
    rows_of_the_mix = rows(stand_ins.ORPO_MIX)
    assert len(rows_of_the_mix) == 480
    for row in rows_of_the_mix:
        assert row["chosen"][:-1] == row["rejected"][:-1] and row["chosen"][-1] != row["rejected"][-1]
    texts = json.dumps([rows(source.repository) for source in SEVEN]).lower()
    assert not [prompt for prompt in environment.course_prompts() if json.dumps(prompt).lower() in texts]
