"""ORPO's loss: number and gradient of TRL's trainer, the pushes that autograd finds, and both ends of the scale."""

import math

import pytest
import torch

from utils.orpo import figures as orpo_figures
from utils.orpo import math as orpo_math
from utils.practice import small_world

PAIRS = [(0.8, 0.2), (0.5, 0.5), (0.05, 0.9), (0.999, 0.001)]


@pytest.fixture
def logs() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(PAIRS, dtype=torch.float64).log().T)


@pytest.fixture(scope="module")
def trainer(small_base, tokenizer, tmp_path_factory):
    """TRL's own trainer on the small base in fp32, with pairs of different lengths in one batch."""
    import datasets
    from transformers import AutoModelForCausalLM
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    model = AutoModelForCausalLM.from_pretrained(
        small_base, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    arguments = ORPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trainer")),
        beta=0.3,
        max_length=512,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        remove_unused_columns=False,
        report_to="none",
    )
    pairs = datasets.Dataset.from_list(small_world.preference_pairs(6, 3))
    return ORPOTrainer(model, arguments, train_dataset=pairs, processing_class=tokenizer)


def gradient(model) -> torch.Tensor:
    found = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    model.zero_grad()
    return found


def test_the_loss_and_its_gradient_are_the_trainers(trainer):
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert (batch["chosen_attention_mask"] == 0).any() and (batch["rejected_attention_mask"] == 0).any(), "no padding"
    by_trainer, metrics = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    by_trainer.backward()
    wanted = gradient(trainer.model)
    terms = orpo_math.pair_terms(trainer.model, batch)
    loss = orpo_math.orpo_loss(**terms, beta=0.3)
    loss.backward()
    torch.testing.assert_close(loss, by_trainer, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient(trainer.model), wanted, rtol=1e-3, atol=1e-5)
    assert wanted.norm() > 0.1
    assert terms["nll"].item() == pytest.approx(metrics["nll_loss"], abs=1e-5)
    for side in ("chosen", "rejected"):
        assert terms[side].mean().item() == pytest.approx(metrics[f"logps/{side}"], abs=1e-5)
    ratio = orpo_math.log_odds_ratio(terms["chosen"], terms["rejected"]).mean().item()
    assert ratio == pytest.approx(metrics["log_odds_chosen"], abs=1e-4)


def test_without_beta_it_is_supervised_fine_tuning(trainer):
    batch = trainer.data_collator(list(trainer.train_dataset))
    terms = orpo_math.pair_terms(trainer.model, batch)
    assert orpo_math.orpo_loss(**terms, beta=0.0).item() == terms["nll"].item()


def test_a_mean_leaves_prompt_and_padding_out_and_a_sum_would_not_do():
    logits = torch.zeros(2, 5, 3)
    logits[0, 2] = torch.tensor([0.7, 0.2, 0.1]).log()
    labels = torch.tensor([[-100, -100, -100, 0, 2], [-100, 1, -100, -100, -100]])
    mean = orpo_math.mean_log_probability(logits, labels)
    assert mean.tolist() == pytest.approx([(math.log(0.7) - math.log(3)) / 2, -math.log(3)])
    nll = orpo_math.negative_log_likelihood(logits, labels)
    assert nll.item() == pytest.approx((2 * math.log(3) - math.log(0.7)) / 3), "over tokens, not over rows"


def test_an_empty_answer_is_refused():
    with pytest.raises(ValueError, match="Row 1 has no token to score"):
        orpo_math.mean_log_probability(torch.zeros(2, 3, 4), torch.tensor([[-100, 1, 2], [1, -100, -100]]))


def test_the_losses_are_what_the_equations_say(logs):
    for (chosen, rejected), odds, ratio in zip(
        PAIRS,
        orpo_math.odds_ratio_loss(*logs).tolist(),
        orpo_math.probability_ratio_loss(*logs).tolist(),
        strict=True,
    ):
        odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
        assert odds == pytest.approx(math.log(1 + 1 / odds_ratio))
        assert ratio == pytest.approx(math.log(1 + rejected / chosen))


@pytest.mark.parametrize("name", ["odds_ratio", "probability_ratio"])
def test_the_pushes_are_what_autograd_finds(name, logs):
    chosen, rejected = (leaf.clone().requires_grad_() for leaf in logs)
    getattr(orpo_math, f"{name}_loss")(chosen, rejected).sum().backward()
    up, down = getattr(orpo_math, f"{name}_push")(*logs)
    torch.testing.assert_close(up, -chosen.grad)
    torch.testing.assert_close(down, -rejected.grad)
    assert (up > 0).all() and (down < 0).all()


def test_odds_let_go_of_a_settled_pair_and_are_strict_with_a_wrong_one(logs):
    odds, ratio = (kind(*logs)[1].abs() for kind in (orpo_math.odds_ratio_push, orpo_math.probability_ratio_push))
    assert odds[0] < ratio[0] / 2, "chosen 0.8, rejected 0.2"
    assert odds[2] > 5 * ratio[2], "chosen 0.05, rejected 0.9"


@pytest.mark.parametrize("value", [-1e-6, -1e-3, -0.5, -30.0])
def test_log_odds_keep_their_digits_near_one_and_far_below(value):
    exact = value - math.log(-math.expm1(value))
    assert orpo_math.log_odds(torch.tensor(value)).item() == pytest.approx(exact, rel=1e-5)


def test_the_papers_statements_are_judged_by_the_numbers():
    """The paper's own two models part at 1.0: chosen answers rise with one and fall with the other."""
    falls, rises, still = [-0.7, -1.5], [-0.8, -0.4], [-0.7, -0.71]
    runs = {
        "SFT": {"chosen": rises, "rejected": rises},
        "ORPO 0.1": {"chosen": rises, "rejected": still},
        "ORPO 0.5": {"chosen": rises, "rejected": [-0.7, -1.0]},
        "ORPO 1.0": {"chosen": [-0.8, -0.9], "rejected": [-0.7, -2.0]},
    }

    def disagree(runs):
        return [(row["run"], row["it says"]) for row in orpo_figures.paper_rows(runs) if row["agrees"] == "no"]

    assert len(orpo_figures.paper_rows(runs)) == len(orpo_figures.PAPER) == 11
    assert disagree(runs) == [("ORPO 1.0", "chosen rises all the same")]
    runs["ORPO 1.0"]["chosen"] = rises
    assert disagree(runs) == [("ORPO 1.0", "chosen falls")]
    runs["SFT"]["rejected"], runs["ORPO 0.1"]["rejected"], runs["ORPO 1.0"]["rejected"] = still, falls, still
    assert disagree(runs) == [
        ("SFT", "rejected rises too"),
        ("ORPO 1.0", "rejected falls"),
        ("ORPO 0.1", "rejected does not fall"),
        ("ORPO 1.0", "chosen falls"),
        ("ORPO 1.0", "rejected falls"),
        ("ORPO 1.0", "the gap is widest"),
    ]
    only = orpo_figures.paper_rows({"SFT": runs["SFT"]})
    assert [row["run"] for row in only] == ["SFT", "SFT"], "a run that was not made is not judged"


def test_the_figures_show_the_runs_and_the_pushes(no_open_figures):
    runs = {name: {"chosen": [-0.8, -0.5], "rejected": [-0.7, -1.25]} for name in ("SFT", "ORPO 1.0")}
    figure, alt = orpo_figures.plot_log_probabilities([0, 4], runs)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["SFT", "ORPO 1.0"]
    assert "ORPO 1.0: chosen from -0.80 to -0.50, rejected from -0.70 to -1.25" in alt
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    figure, alt = orpo_figures.plot_pushes()
    odds, ratio = figure.axes[1].lines
    assert odds.get_ydata()[-1] < 0.05 < 0.2 < ratio.get_ydata()[-1], "odds fade as the chosen answer grows likely"
    assert "odds ratio on rejected, downwards" in alt
