"""The stand-ins: the same from the same seed, in the real forms, and learnable but not yet learnt."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from utils import environment
from utils.data import chat_format
from utils.data.pairs import to_pair
from utils.practice import small_world, stand_ins
from utils.practice.hub import PracticeHub

MESSAGES = [{"content": "text", "role": "text"}]
MODELS = ["small_base", "small_phi", "small_qwen2", "small_llama2", "small_smollm2"]


@cache
def load(name: str) -> SimpleNamespace:
    """A small model, built once and cached: its folder, tokenizer, model in fp32, and the tensors in its file."""
    folder = getattr(stand_ins, name)()
    (path,) = folder.glob("*.safetensors")
    with path.open("rb") as file:  # the format's own header: its length, then JSON
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    return SimpleNamespace(
        name=name,
        folder=folder,
        tokenizer=AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        network=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        tensors=tensors,
    )


@pytest.fixture(scope="session", params=MODELS)
def model(request) -> SimpleNamespace:
    return load(request.param)


@pytest.fixture(scope="session")
def phi() -> SimpleNamespace:
    return load("small_phi")


@pytest.fixture(scope="session")
def qwen() -> SimpleNamespace:
    return load("small_qwen2")


@pytest.fixture(scope="session")
def llama2() -> SimpleNamespace:
    return load("small_llama2")


@pytest.fixture(scope="session")
def smollm2() -> SimpleNamespace:
    return load("small_smollm2")


# --- data sets -------------------------------------------------------------------------------------------------


def stand_in_rows(name: str, split: str) -> Dataset:
    folder = getattr(stand_ins, name)()
    return Dataset.from_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))


def plain(feature):
    """A feature as nested Python: the name of its type, or its shape."""
    if isinstance(feature, dict):
        return {name: plain(value) for name, value in sorted(feature.items())}
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return [plain(inner)]
    if isinstance(feature, list):
        return [plain(feature[0])]
    return {"string": "text", "large_string": "text"}.get(feature.dtype, feature.dtype)


def test_the_mix_has_the_columns_of_v1():
    rows = stand_in_rows("orpo_mix", "train")
    assert plain(dict(rows.features)) == {
        "chosen": MESSAGES,
        "prompt": "text",
        "rejected": MESSAGES,
        "source": "text",
    }
    assert len(rows) == 480
    for row in rows:
        assert row["chosen"][:-1] == row["rejected"][:-1] and row["chosen"][-1] != row["rejected"][-1]
        assert row["prompt"] == row["chosen"][-2]["content"]
        assert row["chosen"][-1]["role"] == row["rejected"][-1]["role"] == "assistant"


@pytest.mark.parametrize("split, count", [("train", 240), ("test", 60)])
def test_the_dpo_mix_has_the_columns_of_argillas(split, count):
    rows = stand_in_rows("dpo_mix", split)
    assert plain(dict(rows.features)) == {
        "chosen": MESSAGES,
        "chosen_rating": "float64",
        "dataset": "text",
        "rejected": MESSAGES,
        "rejected_rating": "float64",
    }
    assert len(rows) == count
    assert all(row["chosen_rating"] > row["rejected_rating"] for row in rows)
    assert all(row["chosen"][:-1] == row["rejected"][:-1] for row in rows)


def test_the_mix_has_twelve_pairs_that_do_not_fit(tokenizer):
    rows = [to_pair(row) for row in stand_in_rows("orpo_mix", "train")]
    problems = Counter(chat_format.length_problem(pair, tokenizer, 1024) for pair in rows)
    assert problems == {None: len(rows) - 12, "prompt too long": 6, "answer too long": 6}


def test_truthy_dpo_has_plain_texts_and_some_system_messages():
    rows = stand_in_rows("truthy_dpo", "train")
    columns = ["id", "source", "system", "prompt", "chosen", "rejected"]
    assert rows.column_names == columns and plain(dict(rows.features)) == dict.fromkeys(columns, "text")
    assert len(rows) == len(set(rows["id"])) == 200
    assert not list((stand_ins.truthy_dpo() / "data").glob("test*"))
    roles = Counter(tuple(message["role"] for message in to_pair(row)["prompt"]) for row in rows)
    assert set(roles) == {("user",), ("system", "user")} and min(roles.values()) > 40
    assert all(row["chosen"] and row["rejected"] and "Human:" not in row["prompt"] for row in rows)


@pytest.mark.parametrize("split, count, seed", [("train", 200, 3), ("test", 40, 1003)])
def test_hh_rlhf_has_transcripts_that_hold_the_pairs(split, count, seed):
    rows = stand_in_rows("hh_rlhf", split)
    assert plain(dict(rows.features)) == {"chosen": "text", "rejected": "text"}
    assert all(row[side].startswith("\n\nHuman: ") for row in rows for side in row)
    pairs = small_world.preference_pairs(count, seed)
    assert [to_pair(row) | {"source": ""} for row in rows] == [{"source": "", **pair} for pair in pairs]
    assert max(row["chosen"].count("\n\nHuman: ") for row in rows) == 2  # several turns are kept


def test_the_two_data_sets_differ():
    rows = [
        [row["chosen"] for row in stand_in_rows(*name)]
        for name in (("orpo_mix", "train"), ("dpo_mix", "train"), ("dpo_mix", "test"))
    ]
    assert rows[0][:20] != rows[1][:20] and rows[1][:20] != rows[2][:20]


LICENCES = {
    "small_base": "apache-2.0",
    "small_phi": "mit",
    "small_qwen2": "apache-2.0",
    "small_llama2": "apache-2.0",
    "small_smollm2": "apache-2.0",
    "orpo_mix": "apache-2.0",
    "dpo_mix": "mit",
    "truthy_dpo": "cc-by-4.0",
    "hh_rlhf": "mit",
}


@pytest.mark.parametrize("name, licence", LICENCES.items())
def test_the_card_says_stand_in(name, licence):
    folder = getattr(stand_ins, name)()
    _, front_matter, text = (folder / "README.md").read_text().split("---\n", 2)
    counted = "" if name in MODELS else f"rows_kept: {len(stand_in_rows(name, 'train'))}\n"  # no rule leaves any out
    assert front_matter == f"license: {licence}\ntags:\n- stand-in\n{counted}"
    if name in MODELS:
        assert licence in (folder / "LICENSE").read_text()
    assert "stand-in for" in text and "only its name and form are real" in text


# --- the cache -------------------------------------------------------------------------------------------------


def test_a_second_call_finds_the_first_ones_folder(tmp_path):
    folder = stand_ins.orpo_mix(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert stand_ins.orpo_mix(tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    assert stand_ins.orpo_mix(tmp_path, seed=7) != folder
    assert not list(tmp_path.glob("*.part"))


def test_a_cached_model_is_not_built_again(model, monkeypatch):
    monkeypatch.setattr(stand_ins, "_build_model", lambda *arguments: pytest.fail("built again"))
    assert getattr(stand_ins, model.name)() == model.folder
    assert stand_ins.VERSION in model.folder.name


def versions_after(tmp_path: Path, changed: str) -> list[str]:
    """The versions of models and of data in a copy of the course in which one file has changed."""
    copy = tmp_path / changed / "utils"
    shutil.copytree(Path(stand_ins.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    if (copy / changed).exists():
        (copy / changed).write_text((copy / changed).read_text() + "# changed\n")
    code = "from utils import stand_ins; print(stand_ins.VERSION, stand_ins.DATA_VERSION)"
    run = subprocess.run([sys.executable, "-c", code], cwd=copy.parent, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_a_change_of_the_code_is_a_new_version(tmp_path):
    before = versions_after(tmp_path, "neither")
    assert before == [stand_ins.VERSION, stand_ins.DATA_VERSION] and len(set(before)) == 2
    found = [before]
    for name in ("stand_ins.py", "small_world.py"):
        found.append(versions_after(tmp_path, name))
    assert len({model for model, _ in found}) == len({data for _, data in found}) == 3
    for name in ("source_stand_ins.py", "benchmark_stand_ins.py"):  # rows alone: the models stay
        found.append(versions_after(tmp_path, name))
    assert {model for model, _ in found[3:]} == {stand_ins.VERSION} and len({data for _, data in found}) == 5


@pytest.mark.parametrize("name", [name for name, (kind, *_) in stand_ins.STAND_INS.items() if kind == "dataset"])
def test_data_sets_are_kept_by_their_own_version(name):
    folder = stand_ins.STAND_INS[name][1]()
    assert f"-{stand_ins.DATA_VERSION}-" in folder.name and stand_ins.VERSION not in folder.name


def test_the_same_seed_writes_the_same_rows(tmp_path):
    folders = [stand_ins.dpo_mix(tmp_path / name) for name in "ab"]
    rows = [load_dataset("parquet", data_dir=str(folder / "data"), split="test")[:] for folder in folders]
    assert rows[0] == rows[1]


def test_an_interrupted_build_is_not_taken_for_a_whole_one(tmp_path):
    def build(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stand_ins._build_whole(tmp_path / "base", build)
    assert not (tmp_path / "base").exists()
    whole = stand_ins._build_whole(tmp_path / "base", lambda folder: (folder / "whole").write_text("whole"))
    assert [path.name for path in whole.iterdir()] == ["whole"]


def test_the_slower_of_two_builds_takes_the_fasters(tmp_path):
    final = tmp_path / "base"

    def build(folder):
        final.mkdir()
        (final / "faster").touch()  # meanwhile, by another process
        (folder / "slower").touch()

    assert stand_ins._build_whole(final, build) == final
    assert [path.name for path in final.iterdir()] == ["faster"]
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_publishing_twice_changes_nothing(hub):
    names = [(stand_ins.BASE_MODEL, "model"), (stand_ins.ORPO_MIX, "dataset"), (stand_ins.DPO_MIX, "dataset")]
    before = [hub.files(*name) for name in names]
    commits = {key: len(repo["commits"]) for key, repo in hub.repos.items()}
    stand_ins.publish(hub)
    assert {key: len(repo["commits"]) for key, repo in hub.repos.items()} == commits
    assert [hub.files(*name) for name in names] == before
    assert hub.files(stand_ins.ORPO_MIX, "dataset", revision="v1.0") == before[1]
    assert "model.safetensors" in before[0] and "data/test-00000-of-00001.parquet" in before[2]


def test_the_series_gets_what_it_asks_for_and_no_more(tmp_path):
    hub = PracticeHub(tmp_path)
    stand_ins.publish(hub)
    mixes = [
        "mlabonne/orpo-dpo-mix-40k",
        "argilla/dpo-mix-7k",
        "argilla/distilabel-capybara-dpo-7k-binarized",
        "argilla/distilabel-intel-orca-dpo-pairs",
        "argilla/ultrafeedback-binarized-preferences-cleaned",
        "argilla/distilabel-math-preference-dpo",
        "unalignment/toxic-dpo-v0.2",
        "M4-ai/prm_dpo_pairs_cleaned",
        "jondurbin/truthy-dpo-v0.1",
        "argilla/Capybara-Preferences",
    ]
    benchmarks = [
        "openai/gsm8k",
        "truthfulqa/truthful_qa",
        "allenai/ai2_arc",
        "Rowan/hellaswag",
        "cais/mmlu",
        "google/IFEval",
    ]
    course = {("dataset", name) for name in mixes + benchmarks}
    bases = {("model", "NousResearch/Meta-Llama-3-8B"), ("model", "HuggingFaceTB/SmolLM2-135M")}
    assert set(hub.repos) == course | bases


def test_others_are_published_by_name(tmp_path):
    hub = PracticeHub(tmp_path)
    names = (
        "microsoft/phi-2",
        "Qwen/Qwen2.5-0.5B",
        "NousResearch/Llama-2-7b-hf",
        "jondurbin/truthy-dpo-v0.1",
        "Anthropic/hh-rlhf",
        "lvwerra/stack-exchange-paired",
    )
    stand_ins.publish(hub, names=names)
    assert {name for _, name in hub.repos} == set(names)
    assert set(names) | set(stand_ins.COURSE) == set(stand_ins.STAND_INS)
    for name, folder in ((stand_ins.PHI, stand_ins.small_phi()), (stand_ins.QWEN, stand_ins.small_qwen2())):
        files = hub.files(name)
        assert files["model.safetensors"]["size"] == (folder / "model.safetensors").stat().st_size
        assert {"README.md", "LICENSE", "config.json", "tokenizer.json"} <= set(files)
    assert "data/train-00000-of-00001.parquet" in hub.files(stand_ins.TRUTHY_DPO, "dataset")
    assert "data/test-00000-of-00001.parquet" in hub.files(stand_ins.HH_RLHF, "dataset")
    assert "data/rl/train-00000-of-00001.parquet" in hub.files("lvwerra/stack-exchange-paired", "dataset")


# --- the tokenizer ---------------------------------------------------------------------------------------------

# Llama 3's, in its order; the others are reserved, numbered from 0.
LLAMA_3 = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}


def test_the_special_tokens_are_llama_3s(small_base):
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    special = sorted(tokenizer.added_tokens_decoder.items())
    first = len(tokenizer) - 256
    assert [number for number, _ in special] == list(range(first, first + 256))
    assert all(token.special for _, token in special)
    names = [str(token) for _, token in special]
    assert {place: f"<|{name}|>" for place, name in LLAMA_3.items()} == {place: names[place] for place in LLAMA_3}
    others = [name for place, name in enumerate(names) if place not in LLAMA_3]
    assert others == [f"<|reserved_special_token_{number}|>" for number in range(251)]
    assert names[2:6] == [f"<|reserved_special_token_{number}|>" for number in range(4)]
    assert names[8] == "<|reserved_special_token_4|>" and names[-1] == "<|reserved_special_token_250|>"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (names[0], names[1], None)


def test_tokenizing_begins_with_one_begin_token(small_base):
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    ids = tokenizer("Hello")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    "text",
    ["What is it?", "x = [1, 22, 333, 4444]\n\n\tпривет 🙂", "<|im_start|>user\n", "  a  b ", "日本 {     \t\t\t§}"],
)
def test_text_comes_back_whole(model, text):
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert model.tokenizer.decode(ids) == text
    assert max(ids) < len(model.tokenizer)
    assert model.tokenizer.unk_token_id is None or model.tokenizer.unk_token_id not in ids


def test_numbers_are_cut_at_three_digits(small_base):
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("12345 cats")
    assert [word for word, _ in cut] == ["123", "45", "Ġcats"]


def special_tokens(tokenizer) -> list[str]:
    return [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]


def test_phis_tokenizer_has_one_special_token_and_no_pad(phi):
    tokenizer, end = phi.tokenizer, "<|endoftext|>"
    assert special_tokens(tokenizer) == [end]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == (end, end, end)
    assert tokenizer.pad_token is None and tokenizer.chat_template is None
    assert tokenizer.eos_token_id not in tokenizer("Hello")["input_ids"]  # nothing is put before a text


def test_phis_runs_of_white_space_are_ordinary_tokens(phi):
    added = {str(token): token.special for token in phi.tokenizer.added_tokens_decoder.values()}
    runs = [" " * length for length in range(2, 32)] + ["\t" * length for length in range(2, 10)]
    assert [added[run] for run in runs] == [False] * 38 and len(added) == 39
    assert phi.tokenizer.tokenize("a" + " " * 30 + "b") == ["a", " " * 30, "b"]
    ids = phi.tokenizer("a" + " " * 30)["input_ids"]
    assert phi.tokenizer.decode(ids, skip_special_tokens=True) == "a" + " " * 30


def test_phi_has_rows_that_no_token_uses(phi):
    rows = phi.network.config.vocab_size
    assert rows > len(phi.tokenizer) == max(phi.tokenizer.get_vocab().values()) + 1
    for tensor in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"):
        assert phi.tensors[tensor]["shape"][0] == rows


def test_smollm2s_tokenizer_has_special_tokens_of_code_and_none_to_pad_with(smollm2):
    tokenizer, end = smollm2.tokenizer, "<|endoftext|>"
    special = special_tokens(tokenizer)
    assert special[:3] == [end, "<|im_start|>", "<|im_end|>"] and special[-1] == "<empty_output>" and len(special) == 17
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == (end, end, end)
    assert tokenizer.pad_token is None and tokenizer.chat_template is None
    assert not [token for token in special if re.search("pad|reserved|unk", token)]
    assert tokenizer.tokenize("<|im_start|>user")[0] == "<|im_start|>"  # a mark, as in Qwen's
    assert tokenizer.tokenize("in 2024")[-4:] == ["2", "0", "2", "4"]
    assert smollm2.network.config.vocab_size == len(tokenizer) == 768  # each row has its token: none is to spare


def test_qwens_tokenizer_begins_with_nothing_and_pads_with_the_end(qwen):
    tokenizer = qwen.tokenizer
    assert tokenizer.bos_token is None
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer("Hello")["input_ids"] == tokenizer("Hello", add_special_tokens=False)["input_ids"]
    assert "<|im_end|>" in tokenizer.chat_template


def test_qwens_special_tokens_are_chatmls_and_those_for_pictures(qwen):
    special = special_tokens(qwen.tokenizer)
    assert special[:4] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"] and len(special) == 14
    assert special[-3:] == ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    added = {str(token): token.special for token in qwen.tokenizer.added_tokens_decoder.values()}
    ordinary = {"<tool_call>", "<|fim_prefix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}
    assert len(added) == 22 and ordinary <= {token for token, is_special in added.items() if not is_special}
    assert qwen.tokenizer.tokenize("<|im_start|>user")[0] == "<|im_start|>"  # a mark, not text as in the others


def test_qwen_cuts_numbers_digit_by_digit(qwen):
    assert qwen.tokenizer.tokenize("2024") == ["2", "0", "2", "4"]


def test_llama_2s_tokenizer_knows_words_and_bytes(llama2):
    tokenizer = llama2.tokenizer
    assert special_tokens(tokenizer) == ["<unk>", "<s>", "</s>"]
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token is None and tokenizer.chat_template is None
    assert tokenizer.convert_ids_to_tokens(tokenizer("the\n🙂")["input_ids"]) == (
        ["<s>", "▁the", "<0x0A>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    )
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    assert tokenizer.convert_ids_to_tokens(list(range(3, 259))) == every_byte


# --- the base --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(small_base):
    return AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32)


def test_the_base_is_a_small_llama_3(base):
    config = base.config
    assert config.model_type == "llama" and config.vocab_size > 256
    assert config.num_key_value_heads < config.num_attention_heads  # grouped-query attention
    assert not config.tie_word_embeddings
    assert base.lm_head.weight.data_ptr() != base.model.embed_tokens.weight.data_ptr()
    assert 0.5e6 < base.num_parameters() < 2e6


def test_every_matrix_can_be_quantised_in_blocks_of_64(model):
    matrices = {name: part.weight for name, part in model.network.named_modules() if isinstance(part, torch.nn.Linear)}
    assert len(matrices) >= 13
    for name, weight in matrices.items():
        assert all(size % 64 == 0 for size in weight.shape), name


def test_phi_has_biases_everywhere_and_one_norm_a_layer(phi):
    assert phi.network.config.architectures == ["PhiForCausalLM"]
    weights = {name.removesuffix(".weight") for name in phi.tensors if name.endswith(".weight")}
    assert {f"{name}.bias" for name in weights - {"model.embed_tokens"}} == set(phi.tensors) - {
        f"{name}.weight" for name in weights
    }
    assert phi.network.lm_head.bias.abs().max() > 0.01  # and it is learnt, so leaving it out would show
    assert {name for name in phi.network.model.layers[0]._modules if "norm" in name} == {"input_layernorm"}
    assert phi.network.config.rope_parameters["partial_rotary_factor"] == 0.5


def test_qwens_head_is_its_embedding(qwen):
    assert qwen.network.config.architectures == ["Qwen2ForCausalLM"] and qwen.network.config.tie_word_embeddings
    assert "lm_head.weight" not in qwen.tensors and "model.embed_tokens.weight" in qwen.tensors
    assert qwen.network.lm_head.weight.data_ptr() == qwen.network.model.embed_tokens.weight.data_ptr()
    biases = {name.split(".")[-2] for name in qwen.tensors if name.endswith(".bias")}
    assert biases == {"q_proj", "k_proj", "v_proj"}
    assert qwen.network.config.vocab_size > len(qwen.tokenizer)


def test_smollm2_is_a_llama_whose_head_is_its_embedding(smollm2):
    config = smollm2.network.config
    assert config.architectures == ["LlamaForCausalLM"] and config.tie_word_embeddings
    assert config.num_key_value_heads < config.num_attention_heads and config.max_position_embeddings == 8192
    assert "lm_head.weight" not in smollm2.tensors and not [name for name in smollm2.tensors if name.endswith(".bias")]
    head, embedding = smollm2.network.lm_head.weight, smollm2.network.model.embed_tokens.weight
    assert head.data_ptr() == embedding.data_ptr()


def test_the_small_llama_2_has_a_context_of_512(llama2):
    config = json.loads((llama2.folder / "config.json").read_text())
    assert config["model_type"] == "llama" and config["max_position_embeddings"] == 512
    assert llama2.tokenizer.model_max_length > 1e20  # as Llama 2's own, which says nothing about it
    assert config["vocab_size"] == len(llama2.tokenizer) and not config["tie_word_embeddings"]
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(llama2.tensors)


@pytest.mark.parametrize("name", MODELS)
def test_documents_are_parted_by_the_tokenizers_own_tokens(name, tmp_path, monkeypatch):
    text = f"<|im_start|>user\nWhat?{small_world.END_TOKEN}\n<|im_start|>assistant\nA cat."
    monkeypatch.setattr(stand_ins, "pretraining_text", lambda documents, seed: [text] * 3)
    seen = []
    monkeypatch.setattr(stand_ins, "pretrain", lambda model, token_ids, steps: seen.extend(token_ids))
    tokenizer = AutoTokenizer.from_pretrained(getattr(stand_ins, name)(tmp_path))
    begin = [] if tokenizer.bos_token is None else [tokenizer.bos_token_id]
    text = text.replace(small_world.END_TOKEN, tokenizer.eos_token)
    document = begin + tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    assert seen == document * 3
    assert document[len(begin) :].count(tokenizer.eos_token_id) == 2


def test_the_weights_are_bf16_safetensors(model):
    assert not [path.name for path in model.folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert {tensor["dtype"] for tensor in model.tensors.values()} == {"BF16"}
    if model.name == "small_base":
        assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(model.tensors)


def test_a_base_answers_in_words_and_does_not_stop(model):
    tokenizer, known = model.tokenizer, set(re.findall(r"\w+", " ".join(small_world.pretraining_text(3000, 0))))
    for prompt in environment.course_prompts():
        chat = [{"role": "user", "content": prompt}]
        asked = tokenizer.apply_chat_template(
            chat, chat_template=chat_format.CHAT_TEMPLATE, add_generation_prompt=True, return_tensors="pt"
        )
        with torch.no_grad():
            output = model.network.generate(**asked, max_new_tokens=40, do_sample=False)
        answer = output[0, asked["input_ids"].shape[1] :].tolist()
        assert len(answer) == 40 and tokenizer.eos_token_id not in answer
        assert not set(answer) & set(tokenizer.added_tokens_decoder)
        words = re.findall(r"\w+", tokenizer.decode(answer))[:-1]  # the last may be cut
        assert len(words) > 10 and set(words) <= known
        assert len(set(words)) > 4  # and not one word over and over


def test_a_base_knows_the_small_world_better_than_chance(model):
    """The text is learnt: an answer's tokens cost far less than the log of the vocabulary."""
    losses = []
    for pair in small_world.preference_pairs(16, seed=99):
        talk = pair["prompt"] + pair["chosen"]
        ids = model.tokenizer.apply_chat_template(
            talk, chat_template=chat_format.CHAT_TEMPLATE, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            losses.append(model.network(**ids, labels=ids["input_ids"]).loss.item())
    assert sum(losses) / len(losses) < 0.5 * torch.tensor(float(len(model.tokenizer))).log().item()


def test_pretraining_lowers_the_loss_and_counts_its_steps():
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=16,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                tie_word_embeddings=False,
            )
        )
        loss = stand_ins.pretrain(model, list(range(16)) * 40, steps=15, learning_rate=3e-2, progress=False)
    assert loss < 1.0 < torch.tensor(16.0).log()  # a row that counts to sixteen is easy
    assert not model.training


def test_building_leaves_the_learners_random_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_ins, "pretrain", lambda *arguments: torch.rand(1).item())
    monkeypatch.setattr(stand_ins, "pretraining_text", lambda documents, seed: ["What is it? A cat."] * 20)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    folder = stand_ins.small_base(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert folder.parent == tmp_path and os.path.exists(folder / "LICENSE")
