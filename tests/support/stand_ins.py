"""More test models and data sets, which only tests ask for, and what is planted in the rows of the made-up sources."""

import csv
import json
from functools import cache
from pathlib import Path

from utils.practice import stand_ins
from utils.practice.small_world import END_TOKEN
from utils.practice.stand_ins import BASE_MODEL as BASE_MODEL
from utils.practice.stand_ins import DPO_MIX as DPO_MIX
from utils.practice.stand_ins import (
    GPT_2_WORDS,
    LLAMA_3_WORDS,
    MODELS,
    byte_level,
    data_sets,
    finish_tokenizer,
    small_model,
)
from utils.practice.stand_ins import ORPO_MIX as ORPO_MIX
from utils.practice.stand_ins import SMOLLM2 as SMOLLM2
from utils.practice.stand_ins import llama_3_tokenizer as llama_3_tokenizer
from utils.practice.stand_ins import preference_pairs as preference_pairs
from utils.practice.stand_ins import small_base as small_base
from utils.practice.stand_ins import smollm2_tokenizer as smollm2_tokenizer

PHI = "microsoft/phi-2"
QWEN = "Qwen/Qwen2.5-0.5B"
LLAMA_2 = "NousResearch/Llama-2-7b-hf"
HH_RLHF = "Anthropic/hh-rlhf"
STACK_EXCHANGE = "lvwerra/stack-exchange-paired"
TRUTHY_DPO = "jondurbin/truthy-dpo-v0.1"

_QWEN_WORDS = LLAMA_3_WORDS.replace("{1,3}", "")  # digit by digit
_QWEN_SPECIAL = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
    "vision_start vision_end vision_pad image_pad video_pad"
)
_QWEN_ORDINARY = "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep"  # not special in the real one either
_CHATML = (  # what Qwen2.5 ships, without its tools
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def phi_tokenizer(texts: list[str]):
    """Train a tokenizer like Phi-2's: one token is begin, end and unknown, and runs of white space are tokens."""
    end = "<|endoftext|>"
    runs = [" " * length for length in range(31, 1, -1)] + ["\t" * length for length in range(9, 1, -1)]
    names = {"bos_token": end, "eos_token": end, "unk_token": end, "model_max_length": 2048}
    return finish_tokenizer(byte_level(texts, GPT_2_WORDS), [end], runs, **names)


def qwen_tokenizer(texts: list[str]):
    """Train a tokenizer like Qwen2.5's: ChatML's marks are special tokens, none begins a text, and the end one pads."""
    from tokenizers import normalizers

    core = byte_level([text.replace("<|im_start|>", "") for text in texts], _QWEN_WORDS)
    core.normalizer = normalizers.NFC()
    names = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 131072}
    names["chat_template"] = _CHATML
    special, ordinary = ([f"<|{name}|>" for name in tokens.split()] for tokens in (_QWEN_SPECIAL, _QWEN_ORDINARY))
    return finish_tokenizer(core, special, ["<tool_call>", "</tool_call>", *ordinary], **names)


def llama_2_tokenizer(texts: list[str]):
    """Train a tokenizer like Llama 2's: words begin with `▁`, unknown characters become bytes, and no token pads."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<unk>", "<s>", "</s>"]
    first = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    lines = [line for text in texts for line in text.replace(END_TOKEN, "").split("\n")]  # a line end stays a byte
    learner.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=768 - len(first), show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    numbered = {token: i for i, token in enumerate(first + sorted(learnt["vocab"], key=learnt["vocab"].get))}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(numbered, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return finish_tokenizer(tokenizer, special, begins=True, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def small_phi() -> Path:
    """A small Phi-2: its head has a bias, and its embedding rows that no token uses."""
    shape = {"vocab_size": 832, "intermediate_size": 512, "max_position_embeddings": 2048}
    return small_model(PHI, "mit", phi_tokenizer, "phi", shape)


def small_qwen2() -> Path:
    """A small Qwen2.5: its head is the embedding itself, and q, k and v have biases."""
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    shape = {"vocab_size": 768, "num_key_value_heads": 1, "rope_parameters": rope, "tie_word_embeddings": True}
    return small_model(QWEN, "apache-2.0", qwen_tokenizer, "qwen2", shape)


def small_llama2() -> Path:
    """A small Llama 2; its context is an eighth of the real one's, so that it cuts."""
    return small_model(LLAMA_2, "llama2", llama_2_tokenizer, "llama", {"max_position_embeddings": 512})


ALL_MODELS = MODELS | {PHI: small_phi, QWEN: small_qwen2, LLAMA_2: small_llama2}
ALL_DATA = data_sets() | data_sets(Path(__file__).with_name("practice"))


def publish(hub, names: list[str]) -> None:
    """Put some of all that is made up on a practice hub, under the real names."""
    for name in names:
        if name in ALL_MODELS:
            stand_ins.put(hub, name, ALL_MODELS[name](), "model")
        else:
            stand_ins.put(hub, name, ALL_DATA[name], "dataset")


@cache
def rows(repo_id: str, split: str = "train") -> list[dict]:
    """The rows of a made-up data set as its file holds them."""
    found = sorted(ALL_DATA[repo_id].rglob(f"{split}-*.parquet")) or sorted(ALL_DATA[repo_id].rglob("*.jsonl"))
    path = found[0]  # TruthfulQA has its questions twice, and its generation first
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    from datasets import Dataset

    return list(Dataset.from_parquet(str(path)))


def planted_rows(repo_id: str) -> dict[str, int]:
    """What the planted rows of a source are for, and which row, from 0, each is."""
    with (stand_ins.DATA / "planted.csv").open() as file:
        return {line["planted"]: int(line["row"]) for line in csv.DictReader(file) if line["repository"] == repo_id}
