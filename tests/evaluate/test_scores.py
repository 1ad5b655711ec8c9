"""What a model makes of held-out pairs: the trainer's own numbers, intervals of them, lengths, and answers."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from utils import evaluate
from utils.evaluate.scores import SIDES, summed_margins
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
    return evaluate.score_pairs(model, tokenizer, pairs, batch_size=5)


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


def test_each_token_has_the_probability_that_the_model_gave_it(model, tokenizer, pairs, scores):
    """Asked one token at a time, without padding, and their mean is the pair's score."""
    for pair, row in list(zip(pairs, scores.to_dict("records"), strict=True))[:4]:
        found = evaluate.token_logps(model, tokenizer, pair)
        for side in SIDES:
            logps = [logp for _, logp in found[side]]
            assert len(logps) == row[f"{side}_tokens"]
            assert np.mean(logps) == pytest.approx(row[side], abs=1e-5)
    ids, start = evaluate.answer_tokens(pair, "rejected", tokenizer)
    for place in (start, len(ids) - 1):
        with torch.no_grad():
            told = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].log_softmax(-1)
        token, logp = found["rejected"][place - start]
        assert token == ids[place] and logp == pytest.approx(told[token].item(), abs=1e-4)


def test_an_answer_ends_with_the_end_token(pairs, tokenizer):
    whole, start = evaluate.answer_tokens(pairs[0], "rejected", tokenizer)
    assert tokenizer.decode(whole[start:]) == pairs[0]["rejected"][0]["content"].strip() + tokenizer.eos_token
    assert tokenizer.decode(whole[:start]).endswith("<|im_start|>assistant\n") and whole.count(whole[0]) == 1


def test_a_score_that_is_no_number_names_its_pair(model, tokenizer, pairs):
    head = model.get_output_embeddings().weight
    kept = head.data.clone()
    head.data.fill_(float("nan"))
    try:
        with pytest.raises(ValueError, match=r"Pair 0 \(source source 0\)"):
            evaluate.score_pairs(model, tokenizer, pairs[:2])
    finally:
        head.data.copy_(kept)


def test_accuracy_and_margin_with_intervals():
    both = pd.concat([table([1, 1, -1, 1] * 10), table([0.5] * 4, "b")], ignore_index=True)
    rows = {row["source"]: row for row in evaluate.preference_rows({"base": both})}
    assert list(rows) == ["all", "a", "b"] and [row["pairs"] for row in rows.values()] == [44, 40, 4]
    assert rows["a"]["accuracy"] == 0.75 and rows["a"]["margin"] == 0.5
    assert 0.55 < rows["a"]["accuracy_low"] < 0.7 < 0.8 < rows["a"]["accuracy_high"] < 0.95
    assert rows["a"]["margin_low"] < 0.5 < rows["a"]["margin_high"]
    assert (rows["b"]["accuracy_low"], rows["b"]["accuracy_high"]) == wilson(1.0, 4)  # not from 1 to 1
    assert [row["source"] for row in evaluate.preference_rows({"base": table([1, -1])})] == ["all"]


def test_a_difference_is_taken_pair_by_pair():
    """Pairs differ widely, models by a little: what is alike drops out, and the rows are matched."""
    hard = [random.Random(place).gauss(0, 3) for place in range(80)]
    base = pd.concat([table(hard[:40]), table(hard[40:], "b")], ignore_index=True)
    models = {"base": base, "adapter": base.assign(margin=base.margin + 0.2)}
    row, *by_source = evaluate.difference_rows(models, [("adapter", "base"), ("merged", "base")])
    assert (row["model"], row["reference"], row["source"], row["pairs"]) == ("adapter", "base", "all", 80)
    assert [row["margin"], row["margin_low"], row["margin_high"]] == pytest.approx([0.2] * 3)
    turned = sum(-0.2 < it <= 0 for it in hard)
    assert row["accuracy"] == pytest.approx(turned / 80) and row["accuracy_low"] >= 0
    assert [it["source"] for it in by_source] == ["a", "b"]
    assert by_source[1]["margin"] == pytest.approx(0.2)


def test_length_alone_can_look_like_taste():
    """The chosen answers are longer and less likely by token: the mean says wrong, the rule right, the sum wrong."""
    longer = table([-0.1] * 3, chosen_tokens=20)
    found = evaluate.length_bias({"base": longer, "adapter": table([0.6] * 3, chosen_tokens=20)})
    assert found["longer_wins"] == 1.0 and found["by_mean"] == {"base": 0.0, "adapter": 1.0}
    assert found["by_sum"] == {"base": 0.0, "adapter": 1.0}  # 20 * -0.4 > 10 * -1
    assert (found["chosen_tokens"], found["rejected_tokens"]) == (20, 10)
    assert evaluate.length_bias({"base": table([1, -1])})["longer_wins"] == 0.5  # ties
    assert summed_margins(table([-0.1], chosen_tokens=5)).tolist() == pytest.approx([5 * -1.1 + 10])


def test_greedy_answers_repeat_and_sampled_ones_follow_their_seed(model, tokenizer):
    prompts = ["What colour is coal?", "I wonder: How many legs does a bird have?"]
    greedy = evaluate.answer_prompts(model, tokenizer, prompts, 12)
    alone, _ = evaluate.answer_prompts(model, tokenizer, prompts[:1], 12)
    assert alone == greedy[0][:1]  # the shorter prompt, whose padding changes nothing
    sampled = [evaluate.answer_prompts(model, tokenizer, prompts, 12, 5.0, seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2] and sampled[0][0] != greedy[0]


def test_the_figure_says_what_it_shows(no_open_figures):
    base = pd.concat([table([0.1, -0.2, 0.3]), table([0.4, 0.1], "b")], ignore_index=True)
    models = {"base": base, "adapter": base.assign(margin=base.margin + 0.5), "merged": base}
    rows = evaluate.difference_rows(models, [("adapter", "base"), ("merged", "adapter")])
    figure, alt = evaluate.plot_differences(rows)
    assert "adapter minus base: accuracy +0.200" in alt and "margin +0.500 (+0.500 to +0.500)" in alt
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b (2)", "a (3)", "all (5)"]
