"""The chat template, the pad token and the lengths, against what TRL's real ORPO trainer makes of the same pairs."""

import pytest
import torch
from support.trl_pairs import (
    IDS,
    LABEL_OF_PROMPT,
    PAIRS,
    SIDES,
    answer_tokens,
    inference_ids,
    make_pair,
    tokenized_by_trl,
    turn,
)
from support.trl_pairs import trainer as trainer

from utils.data import chat_format

# --- tokens that exist already ------------------------------------------------------------------------------


def test_no_token_is_added(small_base):
    from transformers import AutoTokenizer

    stock = AutoTokenizer.from_pretrained(small_base)
    prepared = chat_format.prepare_tokenizer(AutoTokenizer.from_pretrained(small_base))
    assert prepared.get_vocab() == stock.get_vocab()
    assert prepared.added_tokens_decoder.keys() == stock.added_tokens_decoder.keys()


def test_the_embeddings_need_no_resize(trainer, tokenizer):
    rows = trainer.model.get_input_embeddings().weight.shape[0]
    assert len(tokenizer) == rows
    assert max(max(row[f"{side}_input_ids"]) for row in trainer.train_dataset for side in SIDES) < rows


def test_the_pad_token_existed_and_is_not_the_end_token(small_base, tokenizer):
    from transformers import AutoTokenizer

    assert tokenizer.pad_token in AutoTokenizer.from_pretrained(small_base).get_vocab()
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    assert tokenizer.padding_side == "right"


# --- what the trainer sees -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", range(len(PAIRS)), ids=IDS)
def test_exactly_one_begin_token_in_training(trainer, tokenizer, number, side):
    ids = trainer.train_dataset[number][f"{side}_input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", range(len(PAIRS)), ids=IDS)
def test_training_and_inference_agree_on_the_prompt(trainer, tokenizer, number, side):
    row, asked = trainer.train_dataset[number], inference_ids(tokenizer, PAIRS[number]["prompt"])
    assert row[f"{side}_input_ids"][: len(asked)] == asked
    assert row[f"{side}_labels"][: len(asked)] == [LABEL_OF_PROMPT] * len(asked)
    assert LABEL_OF_PROMPT not in row[f"{side}_labels"][len(asked) :]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", range(len(PAIRS)), ids=IDS)
def test_only_the_answer_and_its_end_carry_the_odds_ratio(trainer, tokenizer, number, side):
    learnt = answer_tokens(trainer.train_dataset[number], side)
    assert learnt[-1] == tokenizer.eos_token_id and learnt.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(learnt[:-1]) == PAIRS[number][side][0]["content"].strip()


def test_earlier_turns_are_masked(trainer, tokenizer):
    row, earlier = trainer.train_dataset[1], "The colour of snow is white."
    for side in SIDES:
        assert earlier in tokenizer.decode(row[f"{side}_input_ids"])
        assert "snow" not in tokenizer.decode(answer_tokens(row, side))
        masked = [i for i, label in zip(row[f"{side}_input_ids"], row[f"{side}_labels"], strict=True) if label == -100]
        assert masked.count(tokenizer.eos_token_id) == 4  # of system, question, earlier answer, question
        assert tokenizer.decode(masked).count("<|im_start|>") == 5


def test_white_space_at_the_edges_changes_nothing(tokenizer):
    tidy = [turn("system", "Be brief."), turn("user", "Hi there!"), turn("assistant", "Hello."), turn("user", "Bye")]
    loose = [turn(message["role"], f"\n \t{message['content']}  \n\n") for message in tidy]
    assert inference_ids(tokenizer, loose) == inference_ids(tokenizer, tidy)


# --- lengths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=IDS)
def test_pair_lengths_are_the_trainers(trainer, tokenizer, number):
    row = trainer.train_dataset[number]
    prompt, *answers = chat_format.pair_lengths(PAIRS[number], tokenizer)
    for side, answer in zip(SIDES, answers, strict=True):
        assert row[f"{side}_labels"].count(LABEL_OF_PROMPT) == prompt
        assert len(row[f"{side}_input_ids"]) == prompt + answer


LONGER_CHOSEN = make_pair("What is it?", "The colour of snow is white, as far as I know.", "No.")
LONGER_REJECTED = make_pair("What is it?", "White.", "Well, snow is a nice thing to think about, is it not?")


@pytest.mark.parametrize("truncate", [False, True], ids=["whole answers", "truncated answers"])
@pytest.mark.parametrize("pair", [LONGER_CHOSEN, LONGER_REJECTED], ids=["chosen longer", "rejected longer"])
def test_boundaries_of_the_window(tokenizer, pair, truncate):
    prompt, chosen, rejected = chat_format.pair_lengths(pair, tokenizer)
    total = prompt + max(chosen, rejected)
    cut = None if truncate else "answer too long"
    expected = {
        prompt - 1: "prompt too long",
        prompt: "prompt too long",
        prompt + 1: cut,
        prompt + min(chosen, rejected): cut,
        total - 1: cut,
        total: None,
        total + 1: None,
    }
    found = {size: chat_format.length_problem(pair, tokenizer, size, truncate) for size in expected}
    assert found == expected


@pytest.mark.parametrize("pair", [LONGER_CHOSEN, LONGER_REJECTED, PAIRS[1]], ids=["chosen", "rejected", "many turns"])
def test_the_filter_is_the_trainers_truncation(trainer, tokenizer, pair):
    """At every window there is: a pair passes exactly if the trainer would leave it whole, or leave something."""
    prompt, *answers = chat_format.pair_lengths(pair, tokenizer)
    for size in range(prompt - 1, prompt + max(answers) + 2):
        row = tokenized_by_trl(trainer, pair, size)
        left = [len(answer_tokens(row, side)) for side in SIDES]
        ends = [row[f"{side}_input_ids"][-1] == tokenizer.eos_token_id for side in SIDES]
        whole = left == answers and all(ends)
        assert (chat_format.length_problem(pair, tokenizer, size) is None) == whole, size
        truncated = chat_format.length_problem(pair, tokenizer, size, truncate_answers=True)
        assert (truncated is None) == (min(left) > 0), size


def test_the_stock_trainer_needs_the_filter(trainer, tokenizer):
    """Shows that the fault is real: without it, the mean log-probability of an empty answer is not a number."""
    prompt, *_ = chat_format.pair_lengths(LONGER_CHOSEN, tokenizer)
    batch = trainer.data_collator([tokenized_by_trl(trainer, LONGER_CHOSEN, prompt)])
    with torch.no_grad():
        _, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
    assert torch.as_tensor(metrics["rewards/margins"]).isnan()


# --- the choice of the pad token -------------------------------------------------------------------------------


def word_tokenizer(roles: dict[str, str], *special: str):
    """A tokenizer of the words a and b, with these special tokens in this order and these roles."""
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, name_or_path="some/base", **roles)


@pytest.mark.parametrize(
    "roles, special, expected",
    [
        ({"eos_token": "</s>", "pad_token": "<mine>"}, ["</s>", "<pad>", "<mine>"], "<mine>"),
        ({"eos_token": "</s>", "pad_token": "</s>"}, ["<s>", "</s>", "<reserved_0>", "<reserved_1>"], "<reserved_0>"),
        ({"eos_token": "</s>"}, ["</s>", "<reserved_0>", "<|finetune_right_pad_id|>"], "<|finetune_right_pad_id|>"),
        ({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, ["<unk>", "<s>", "</s>"], "<unk>"),
        ({"bos_token": "<pad>", "eos_token": "</s>"}, ["<pad>", "</s>", "<reserved_7>"], "<reserved_7>"),
    ],
    ids=["its own", "pad is the end token", "Llama 3.1's", "Llama 2's unknown", "a pad that is the begin token"],
)
def test_a_spare_token_pads(roles, special, expected):
    tokenizer = word_tokenizer(roles, *special)
    vocabulary = tokenizer.get_vocab()
    assert chat_format.choose_pad_token(tokenizer) == expected
    assert chat_format.prepare_tokenizer(tokenizer).pad_token == expected
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.get_vocab() == vocabulary


@pytest.mark.parametrize("rows", [None, 5])
def test_without_a_spare_token_or_row_the_error_names_what_there_is(rows):
    tokenizer = word_tokenizer({"bos_token": "<s>", "eos_token": "</s>"}, "<s>", "</s>", "<tool>")
    with pytest.raises(ValueError, match=r"some/base.*<tool>.*5 tokens leave no row of the embeddings free"):
        chat_format.prepare_tokenizer(tokenizer, rows)


def test_a_spare_row_of_the_embeddings_pads():
    """As in Phi-2, whose only special token is begin, end and unknown at once."""
    tokenizer = word_tokenizer({"bos_token": "<e>", "eos_token": "<e>", "unk_token": "<e>"}, "<e>")
    chat_format.prepare_tokenizer(tokenizer, embedding_rows=4)
    assert tokenizer.pad_token == "<|pad|>" and tokenizer.pad_token_id == 3 and tokenizer.eos_token == "<e>"
    assert len(tokenizer) == 4


@pytest.mark.parametrize("part", ["prompt", "chosen", "rejected"])
def test_a_message_with_the_text_of_a_special_token_is_told(tokenizer, part):
    pair = {
        "prompt": [{"role": "user", "content": "Hi?"}],
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    assert chat_format.special_text_problem(pair, tokenizer) is None
    pair[part][-1]["content"] += f" The token {tokenizer.eos_token} ends a text."
    assert chat_format.special_text_problem(pair, tokenizer) == "text of a special token"


def test_without_an_end_token_there_is_no_training():
    with pytest.raises(ValueError, match="some/base has no end token"):
        chat_format.prepare_tokenizer(word_tokenizer({"pad_token": "<pad>"}, "<pad>"))


# --- many pairs at once ----------------------------------------------------------------------------------------


def test_what_a_tokenizers_file_or_an_earlier_call_asked_for_cuts_and_pads_nothing(small_base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_base, trust_remote_code=False)
    tokenizer = chat_format.prepare_tokenizer(tokenizer)
    expected = [chat_format.pair_lengths(pair, tokenizer) for pair in PAIRS]
    tokenizer(["a", "a and b"], padding=True, truncation=True, max_length=8)
    assert chat_format.batch_lengths(PAIRS, tokenizer) == expected
    tokenizer.backend_tokenizer.enable_padding(length=4096)
    assert chat_format.batch_lengths(PAIRS, tokenizer) == expected
