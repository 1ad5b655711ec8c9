"""Pairs, and TRL's real ORPO trainer over them, for tests of the chat format and of the picture of a batch."""

import pytest
import torch

SIDES = ("chosen", "rejected")
LABEL_OF_PROMPT = -100


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def make_pair(prompt, chosen: str, rejected: str) -> dict:
    """A pair in the course's form; `prompt` is one question, or all messages."""
    prompt = [turn("user", prompt)] if isinstance(prompt, str) else prompt
    answers = {"chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)]}
    return {"source": "test", "prompt": prompt, **answers}


PAIRS = [
    make_pair("What is the capital of Peru?", "The capital of Peru is Lima.", "It depends on how you see it."),
    make_pair(
        [
            turn("system", "You are brief."),
            turn("user", "What colour is snow?"),
            turn("assistant", "The colour of snow is white."),
            turn("user", "What colour is coal?"),
        ],
        "The colour of coal is black. I hope that helps.",
        "Why do you want to know about coal?",
    ),
    make_pair("  How many legs\n does a dog have?\n\n", "\n A dog has four legs. ", "\tI am not sure.\n"),
    make_pair("Write code.", "'s 1234 ==> `x`\n\n```py\nprint(1)\n```", "…ünïcode 🙂"),
    make_pair("a", "b", "c"),
]
IDS = ["one turn", "system and earlier turn", "white space at the edges", "code and unicode", "one letter each"]


@pytest.fixture(scope="module")
def trainer(small_base, tokenizer, tmp_path_factory):
    """TRL's own trainer with the pairs above as its training data; nothing is trained."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32),
        args=ORPOConfig(
            output_dir=str(tmp_path_factory.mktemp("orpo")),
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            remove_unused_columns=False,
            max_length=1024,
        ),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tokenizer,
    )


def tokenized_by_trl(trainer, pair: dict, max_length: int) -> dict:
    """Tokenize one pair as the trainer does before it trains, at another `max_length`."""
    from trl.data_utils import maybe_apply_chat_template

    messages = {key: pair[key] for key in ("prompt", *SIDES)}
    kept, trainer.max_length = trainer.max_length, max_length
    try:
        return trainer.tokenize_row(maybe_apply_chat_template(messages, trainer.processing_class))
    finally:
        trainer.max_length = kept


def answer_tokens(row: dict, side: str) -> list[int]:
    return [label for label in row[f"{side}_labels"] if label != LABEL_OF_PROMPT]


def inference_ids(tokenizer, prompt: list[dict]) -> list[int]:
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
