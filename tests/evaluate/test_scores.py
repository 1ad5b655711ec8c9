"""What a model makes of held-out pairs: the trainer's own numbers, intervals of them, lengths, and answers."""

import random

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from utils.evaluate import figures as evaluation_figures
from utils.evaluate import scores as evaluation
from utils.intervals import wilson
from utils.practice import stand_ins
from utils.train import model_loading


@pytest.fixture(scope="module")
def model(small_base):
    return model_loading.load_base(str(small_base), torch.float32, four_bit=False, device_map="cpu")


@pytest.fixture(scope="module")
def pairs():
    """Two sources, in turns, and one conversation of several turns."""
    found = [pair | {"source": f"source {place % 2}"} for place, pair in enumerate(stand_ins.preference_pairs(12, 3))]
    found[0] = found[0] | {"prompt": found[1]["prompt"] + found[1]["chosen"] + found[0]["prompt"]}
    return found


@pytest.fixture(scope="module")
def scores(model, tokenizer, pairs):
    return evaluation.score_pairs(model, tokenizer, pairs, batch_size=5)


def table(margins, source="a", chosen_tokens=10, rejected_tokens=10):
    """Scores of a model that prefers the chosen answers by so much."""
    margins = np.asarray(margins, dtype=float)
    rows = {"source": source, "chosen": margins - 1, "rejected": -np.ones_like(margins), "margin": margins}
    return pd.DataFrame(rows | {"chosen_tokens": chosen_tokens, "rejected_tokens": rejected_tokens})


def test_the_scores_are_the_trainers_own(model, tokenizer, pairs, scores, tmp_path):
    """`logps` of TRL's trainer, on the same pairs, one pass each."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    arguments = ORPOConfig(
        output_dir=str(tmp_path), per_device_eval_batch_size=1, max_length=1024, report_to="none", bf16=False
    )
    data = Dataset.from_list([{key: pair[key] for key in ("prompt", "chosen", "rejected")} for pair in pairs])
    trainer = ORPOTrainer(model, arguments, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
    with torch.no_grad():
        for row, batch in zip(scores.to_dict("records"), trainer.get_eval_dataloader(), strict=True):
            chosen, rejected = trainer.concatenated_forward(model.eval(), batch)[:2]
            assert [row["chosen"], row["rejected"]] == pytest.approx([chosen.item(), rejected.item()], abs=1e-5)


def test_padding_changes_no_score(model, tokenizer, pairs, scores):
    alone = pd.concat([evaluation.score_pairs(model, tokenizer, [pair], 1) for pair in pairs], ignore_index=True)
    numbers = ["chosen", "rejected", "margin"]
    assert np.allclose(alone[numbers], scores[numbers], atol=1e-5)
    assert alone.chosen_tokens.tolist() == scores.chosen_tokens.tolist()


def test_an_answer_ends_with_the_end_token(pairs, tokenizer):
    whole, start = evaluation.answer_tokens(pairs[0], "rejected", tokenizer)
    assert tokenizer.decode(whole[start:]) == pairs[0]["rejected"][0]["content"].strip() + tokenizer.eos_token
    assert tokenizer.decode(whole[:start]).endswith("<|im_start|>assistant\n") and whole.count(whole[0]) == 1


def test_a_score_that_is_no_number_names_its_pair(model, tokenizer, pairs):
    head = model.get_output_embeddings().weight
    kept = head.data.clone()
    head.data.fill_(float("nan"))
    try:
        with pytest.raises(ValueError, match=r"Pair 0 \(source source 0\)"):
            evaluation.score_pairs(model, tokenizer, pairs[:2])
    finally:
        head.data.copy_(kept)


def test_accuracy_and_margin_with_intervals():
    both = pd.concat([table([1, 1, -1, 1] * 10), table([0.5] * 4, "b")], ignore_index=True)
    rows = {row["source"]: row for row in evaluation.preference_rows({"base": both})}
    assert list(rows) == ["all", "a", "b"] and [row["pairs"] for row in rows.values()] == [44, 40, 4]
    assert rows["a"]["accuracy"] == 0.75 and rows["a"]["margin"] == 0.5
    assert 0.55 < rows["a"]["accuracy_low"] < 0.7 < 0.8 < rows["a"]["accuracy_high"] < 0.95
    assert rows["a"]["margin_low"] < 0.5 < rows["a"]["margin_high"]
    assert (rows["b"]["accuracy_low"], rows["b"]["accuracy_high"]) == wilson(1.0, 4)  # not from 1 to 1


def test_one_source_is_not_listed_twice():
    assert [row["source"] for row in evaluation.preference_rows({"base": table([1, -1])})] == ["all"]


def test_a_difference_is_taken_pair_by_pair():
    """Pairs differ widely, models by a little: what is alike drops out, and the rows are matched."""
    hard = [random.Random(place).gauss(0, 3) for place in range(80)]
    base = pd.concat([table(hard[:40]), table(hard[40:], "b")], ignore_index=True)
    tuned = base.assign(margin=base.margin + 0.2)
    (row, *by_source) = evaluation.difference_rows(
        {"base": base, "adapter": tuned}, [("adapter", "base"), ("merged", "base")]
    )
    assert (row["model"], row["reference"], row["source"], row["pairs"]) == ("adapter", "base", "all", 80)
    assert [row["margin"], row["margin_low"], row["margin_high"]] == pytest.approx([0.2] * 3)
    turned = sum(-0.2 < it <= 0 for it in hard)
    assert row["accuracy"] == pytest.approx(turned / 80) and row["accuracy_low"] >= 0
    assert [it["source"] for it in by_source] == ["a", "b"]
    assert by_source[1]["margin"] == pytest.approx(0.2)


def test_length_alone_can_look_like_taste():
    """The chosen answers are longer and less likely by token: the mean says wrong, the rule right, the sum wrong."""
    longer = table([-0.1] * 3, chosen_tokens=20)
    found = evaluation.length_bias({"base": longer, "adapter": table([0.6] * 3, chosen_tokens=20)})
    assert found["longer_wins"] == 1.0 and found["by_mean"] == {"base": 0.0, "adapter": 1.0}
    assert found["by_sum"] == {"base": 0.0, "adapter": 1.0}  # 20 * -0.4 > 10 * -1
    assert (found["chosen_tokens"], found["rejected_tokens"]) == (20, 10)
    ties = evaluation.length_bias({"base": table([1, -1])})
    assert ties["longer_wins"] == 0.5
    short = evaluation.length_bias({"base": table([-0.1], chosen_tokens=5)})
    assert short["by_mean"] == {"base": 0.0} and short["by_sum"] == {"base": 1.0}  # a sum favours the short


def test_greedy_answers_repeat_and_sampled_ones_follow_their_seed(model, tokenizer):
    prompts = ["What colour is coal?", "I wonder: How many legs does a bird have?"]
    greedy = [evaluation.answer(model, tokenizer, prompts, 12) for _ in range(2)]
    assert greedy[0] == greedy[1]
    alone, _ = evaluation.answer(model, tokenizer, prompts[:1], 12)
    assert alone == greedy[0][0][:1]  # the shorter prompt, whose padding changes nothing
    sampled = [evaluation.answer(model, tokenizer, prompts, 12, 5.0, seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2] and sampled[0][0] != greedy[0][0]
    assert all(isinstance(ended, bool) for ended in greedy[0][1])


def test_memory_of_llama_3_8b_is_what_an_l4_holds(monkeypatch):
    """Weights of 16 GB in 16 bits, and near 6 GB in 4; the logits come on top."""
    from transformers import LlamaConfig

    from utils.train import base as bases
    from utils.train import memory

    shape = bases.skeleton(LlamaConfig(**memory.LLAMA_3_8B, tie_word_embeddings=False))
    whole, four_bit = (evaluation.needed_gb(shape, 2, it, 4, 1024) for it in (False, True))
    assert 18 < whole < 0.92 * 23.6 and 7 < four_bit < 0.92 * 15.8
    assert evaluation.needed_gb(shape, 2, False, 8, 1024) - whole == pytest.approx(4 * 1024 * 128256 * (2 + 4) / 1e9)


def test_the_figure_says_what_it_shows(no_open_figures):
    base = pd.concat([table([0.1, -0.2, 0.3]), table([0.4, 0.1], "b")], ignore_index=True)
    models = {"base": base, "adapter": base.assign(margin=base.margin + 0.5), "merged": base}
    rows = evaluation.difference_rows(models, [("adapter", "base"), ("merged", "adapter")])
    figure, alt = evaluation_figures.plot_differences(rows)
    assert "adapter less base: accuracy +0.200" in alt and "margin +0.500 (+0.500 to +0.500)" in alt
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["b (2)", "a (3)", "all (5)"]
    assert len(figure.axes[0].containers) == 2
    plt.close(figure)
