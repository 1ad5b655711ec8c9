"""The stand-ins: the same from the same seed, in the real forms, and learnable but not yet learnt."""

import json
import os
import re
import struct
from collections import Counter

import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from utils import chat_format, environment, stand_ins
from utils.preference_data import answer_problem, to_pair

MESSAGES = [{"content": "text", "role": "text"}]


def texts(pair: dict) -> list[str]:
    return [message["content"] for part in ("prompt", "chosen", "rejected") for message in pair[part]]


# --- pairs -----------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_pairs():
    first, again, other = (stand_ins.preference_pairs(50, seed) for seed in (3, 3, 4))
    assert first == again and first != other
    assert len(first) == 50


def test_global_random_numbers_are_left_alone():
    import random

    random.seed(1)
    expected = random.random()
    random.seed(1)
    stand_ins.preference_pairs(5, 0)
    stand_ins.pretraining_text(5, 0)
    assert random.random() == expected


def test_the_courses_prompts_are_in_no_pair():
    prompts = environment.course_prompts()
    assert len(prompts) == len(set(prompts)) == 5
    for seed in range(4):
        for pair in stand_ins.preference_pairs(500, seed, long_pairs=10):
            assert not any(prompt.lower() in text.lower() for prompt in prompts for text in texts(pair))


def test_the_courses_prompts_are_about_the_small_world():
    """Else the base could not answer them, and the test above would hold for any prompt."""
    questions = {question for kind in stand_ins._facts() for question, _, _ in kind}
    assert set(environment.course_prompts()) <= questions
    asked = {
        re.sub(r"^.*[:.!?] (?=\w)", "", pair["prompt"][-1]["content"]) for pair in stand_ins.preference_pairs(3000, 0)
    }
    assert len(asked & questions) > 0.8 * len(questions)


def test_a_pair_states_the_fact_or_dodges():
    answers = {question: answer for kind in stand_ins._facts() for question, answer, _ in kind}
    for pair in stand_ins.preference_pairs(300, 0):
        assert answer_problem(pair) is None and pair["prompt"][-1]["role"] == "user"
        (question,) = [known for known in answers if pair["prompt"][-1]["content"].endswith(known)]
        assert pair["chosen"][0]["content"].startswith(answers[question])
        assert answers[question] not in pair["rejected"][0]["content"]


def test_one_pair_in_six_has_an_earlier_turn():
    turns = Counter(len(pair["prompt"]) for pair in stand_ins.preference_pairs(600, 0))
    assert set(turns) == {1, 3}
    assert abs(turns[3] - 100) < 3 * (600 * 5 / 36) ** 0.5
    roles = [message["role"] for pair in stand_ins.preference_pairs(20, 0) for message in pair["prompt"]]
    assert "assistant" in roles


def test_the_mix_has_twelve_pairs_that_do_not_fit(tokenizer):
    rows = [to_pair(row) for row in stand_in_rows("orpo", "train")]
    problems = Counter(chat_format.length_problem(pair, tokenizer, 1024) for pair in rows)
    assert problems == {None: len(rows) - 12, "prompt too long": 6, "answer too long": 6}


# --- data sets -------------------------------------------------------------------------------------------------


def stand_in_rows(name: str, split: str) -> Dataset:
    folder = stand_ins.orpo_mix() if name == "orpo" else stand_ins.dpo_mix()
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
    rows = stand_in_rows("orpo", "train")
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
    rows = stand_in_rows("dpo", split)
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


def test_the_two_data_sets_differ():
    rows = [
        [row["chosen"] for row in stand_in_rows(*name)]
        for name in (("orpo", "train"), ("dpo", "train"), ("dpo", "test"))
    ]
    assert rows[0][:20] != rows[1][:20] and rows[1][:20] != rows[2][:20]


@pytest.mark.parametrize("folder", [stand_ins.small_base, stand_ins.orpo_mix, stand_ins.dpo_mix])
def test_the_card_says_stand_in(folder):
    card = (folder() / "README.md").read_text()
    _, front_matter, text = card.split("---\n", 2)
    assert "- stand-in" in front_matter and "license: " in front_matter
    assert "stand-in for" in text and "only its name and form are real" in text


# --- the cache -------------------------------------------------------------------------------------------------


def test_a_second_call_finds_the_first_ones_folder(tmp_path):
    folder = stand_ins.orpo_mix(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert stand_ins.orpo_mix(tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    assert stand_ins.orpo_mix(tmp_path, seed=7) != folder
    assert not list(tmp_path.glob("*.part"))


def test_the_cached_base_is_not_built_again(small_base, monkeypatch):
    monkeypatch.setattr(stand_ins, "_build_base", lambda *arguments: pytest.fail("built again"))
    assert stand_ins.small_base() == small_base
    assert stand_ins.VERSION in small_base.name


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
    "text", ["What is it?", "x = [1, 22, 333, 4444]\n\n\tпривет 🙂", "<|im_start|>user\n", "  a  b "]
)
def test_text_comes_back_whole(small_base, text):
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_numbers_are_cut_at_three_digits(small_base):
    tokenizer = AutoTokenizer.from_pretrained(small_base)
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("12345 cats")
    assert [word for word, _ in cut] == ["123", "45", "Ġcats"]


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


def test_every_matrix_can_be_quantised_in_blocks_of_64(base):
    for name, weight in base.named_parameters():
        if name.endswith("_proj.weight"):
            assert all(size % 64 == 0 for size in weight.shape), name


def test_the_weights_are_bf16_safetensors(small_base):
    assert not [path.name for path in small_base.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    (path,) = small_base.glob("*.safetensors")
    with path.open("rb") as file:  # the format's own header: its length, then JSON
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(header)


def test_the_base_answers_in_words_and_does_not_stop(base, tokenizer):
    chats = [[{"role": "user", "content": prompt}] for prompt in environment.course_prompts()]
    prompts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.no_grad():
        output = base.generate(**batch, max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    answers = output[:, batch["input_ids"].shape[1] :]
    assert answers.shape[1] == 40
    assert not (answers == tokenizer.eos_token_id).any()
    assert not set(answers.flatten().tolist()) & set(tokenizer.added_tokens_decoder)
    known = set(re.findall(r"\w+", " ".join(stand_ins.pretraining_text(3000, 0))))
    for answer in tokenizer.batch_decode(answers):
        words = re.findall(r"\w+", answer)[:-1]  # the last may be cut
        assert len(words) > 10 and set(words) <= known
        assert len(set(words)) > 4  # and not one word over and over


def test_the_base_knows_the_small_world_better_than_chance(base, tokenizer):
    """The text is learnt: an answer's tokens cost far less than the log of the vocabulary."""
    pairs = stand_ins.preference_pairs(16, seed=99)
    losses = []
    for pair in pairs:
        ids = tokenizer.apply_chat_template(pair["prompt"] + pair["chosen"], return_tensors="pt", return_dict=True)
        with torch.no_grad():
            losses.append(base(**ids, labels=ids["input_ids"]).loss.item())
    assert sum(losses) / len(losses) < 0.5 * torch.tensor(float(len(tokenizer))).log().item()


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
    monkeypatch.setattr(stand_ins, "pretrain", lambda model, token_ids: torch.rand(1).item())
    monkeypatch.setattr(stand_ins, "pretraining_text", lambda documents, seed: ["What is it? A cat."] * 20)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    folder = stand_ins.small_base(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert folder.parent == tmp_path and os.path.exists(folder / "LICENSE")
