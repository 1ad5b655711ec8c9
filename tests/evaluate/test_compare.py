"""The ruler gives what a plain computation gives, the account is exact, and every method starts alike."""

import json
import math
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from utils import environment, evaluate, intervals
from utils.data import chat_format
from utils.practice import stand_ins
from utils.train import memory, model_loading

ROOT = Path(__file__).parents[2]
disable_progress_bars()
environment.quiet_known_warnings()

PAIRS = stand_ins.preference_pairs(12, seed=5)
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


SFT, DPO, ORPO = (evaluate.counting(kind) for kind in (SFTTrainer, DPOTrainer, ORPOTrainer))


@pytest.fixture
def adapted(small_base):
    """The base in 4 bits with a new adapter."""
    torch.manual_seed(0)
    return get_peft_model(model_loading.load_base(str(small_base), torch.float32, device_map="cpu"), LORA)


def pairs_of(count: int = 8) -> Dataset:
    keep = ("prompt", "chosen", "rejected")
    return Dataset.from_list([{key: pair[key] for key in keep} for pair in PAIRS[:count]])


def arguments_of(kind, folder, **more):
    shared = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
    }
    return kind(**shared | more)


def sft_of(model, tokenizer, folder, **more):
    texts = pairs_of().rename_column("chosen", "completion").remove_columns("rejected")
    arguments = arguments_of(SFTConfig, folder, completion_only_loss=False, **more)
    return SFT(model, arguments, train_dataset=texts, processing_class=tokenizer)


def dpo_of(model, tokenizer, folder, **more):
    data = {"train_dataset": pairs_of(), "eval_dataset": pairs_of(4), "processing_class": tokenizer}
    return DPO(model, args=arguments_of(DPOConfig, folder), **data, **more)


def orpo_of(model, tokenizer, folder):
    arguments = arguments_of(ORPOConfig, folder, remove_unused_columns=False)
    return ORPO(model, arguments, train_dataset=pairs_of(), processing_class=tokenizer)


# The ruler


def ruler(model, tokenizer, pairs):
    return evaluate.score_pairs(model, tokenizer, pairs, batch_size=8)


def table_of(chosen, rejected, chosen_tokens, rejected_tokens) -> pd.DataFrame:
    sides = {"chosen": chosen, "rejected": rejected}
    tokens = {"chosen_tokens": chosen_tokens, "rejected_tokens": rejected_tokens}
    return pd.DataFrame(sides | tokens).assign(margin=lambda table: table.chosen - table.rejected)


def test_averages_and_implicit_reward():
    before = table_of([-2.0, -2.0], [-1.0, -3.0], [5, 3], [4, 2])
    after = table_of([-1.0, -3.0], [-2.0, -4.0], [5, 3], [4, 2])
    assert evaluate.averages(before) == {"chosen": -2, "rejected": -2, "margin": 0, "accuracy": 0.5}
    assert evaluate.averages(after)["accuracy"] == 1
    # the whole answers gained 5 and -4, then -3 and -2
    assert evaluate.implicit_margins(after, before, 0.5).tolist() == [0.5 * (5 - -4), 0.5 * (-3 - -2)]
    assert evaluate.implicit_margins(before, before, 0.5).tolist() == [0, 0]


# The account


def test_tokens_trained_on_are_those_of_the_rows(small_base, tokenizer, tmp_path):
    lengths = chat_format.batch_lengths(PAIRS[:8], tokenizer)
    prompts, chosen, rejected = (sum(part) for part in zip(*lengths, strict=True))
    assert len({sum(row) for row in lengths}) > 1, "nothing is padded"
    both = 2 * prompts + chosen + rejected
    for make, expected in ((sft_of, prompts + chosen), (dpo_of, both), (orpo_of, both)):
        base = AutoModelForCausalLM.from_pretrained(
            small_base, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        made = make(get_peft_model(base, LORA), tokenizer, tmp_path)  # two steps of four pairs: each pair once
        made.train()
        assert made.trained_tokens == expected, make.__name__


def test_the_ruler_is_laid_on_at_equal_distances_and_a_second_stage_goes_on(adapted, tokenizer, tmp_path):
    def lay_on(model):
        return ruler(model, tokenizer, PAIRS[8:])

    track = evaluate.Track([(0, lay_on(adapted))])
    made = sft_of(adapted, tokenizer, tmp_path, max_steps=4)
    evaluate.train_and_measure(made, lay_on, track, memory.measure_peak, times=2)
    assert len(track.points) == 3 and track.tokens == made.trained_tokens > track.points[1][0] > 0
    assert track.last.chosen.mean() > track.points[0][1].chosen.mean()
    assert lay_on(made.model).chosen.tolist() == pytest.approx(track.last.chosen.tolist())
    assert track.seconds > 0 and track.peak_gb >= 0
    first = track.tokens
    more = sft_of(made.model, tokenizer, tmp_path, max_steps=2)
    evaluate.train_and_measure(more, lay_on, track, memory.measure_peak, times=1)
    assert len(track.points) == 4 and track.tokens == first + more.trained_tokens
    told = track.as_dict()
    assert [point["tokens"] for point in told["points"]] == [tokens for tokens, _ in track.points]
    assert told["tokens"] == track.tokens
    assert told["points"][-1]["margin"] == pytest.approx(track.last.margin.mean())
    assert f"-> {track.last.margin.mean():.3f}" in str(track)


def test_the_time_of_the_ruler_does_not_count_and_the_peak_holds_weights_and_training(adapted, tokenizer, tmp_path):
    here = ruler(adapted, tokenizer, PAIRS[8:])

    def slow(model):
        time.sleep(1)
        return here

    @contextmanager
    def peak_of_a_quarter():
        yield SimpleNamespace(gb=0.25)

    track, began = evaluate.Track([(0, here)]), time.perf_counter()
    made = sft_of(adapted, tokenizer, tmp_path)
    evaluate.train_and_measure(made, slow, track, peak_of_a_quarter, times=2)
    assert len(track.points) == 3 and 0 < track.seconds < time.perf_counter() - began - 1.9
    assert track.peak_gb == pytest.approx(0.25 + made.model.get_memory_footprint() / 1e9)


# The start, and the reference


def test_trl_rounds_an_adapter_and_restore_adapter_fixes_it(adapted, tokenizer, tmp_path):
    """If the first line fails, TRL has stopped to round, and notebook 08 may say so."""
    kept = evaluate.copy_adapter(adapted)
    made = sft_of(adapted, tokenizer, tmp_path)
    rounded = evaluate.copy_adapter(made.model)
    assert any(not torch.equal(rounded[name], weight) for name, weight in kept.items())
    evaluate.restore_adapter(made.model, kept)
    now = {name: weight for name, weight in made.model.named_parameters() if weight.requires_grad}
    assert now.keys() == kept.keys()
    for name, weight in now.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, kept[name])
    made.train()
    assert any(not torch.equal(weight, kept[name]) for name, weight in now.items()), "kept weights are no copy"


def test_weights_of_another_adapter_are_refused(adapted):
    kept = evaluate.copy_adapter(adapted)
    name = sorted(kept)[0]
    del kept[name]
    with pytest.raises(ValueError, match=f"1 weights are trained or kept, but not both, such as {name}"):
        evaluate.restore_adapter(adapted, kept)


def test_the_reference_is_the_adapter_that_was_trained_and_stays(adapted, tokenizer, tmp_path):
    """What notebook 08 asserts, and that it would fail if the weights were not put back."""
    kept = evaluate.copy_adapter(adapted)
    first = sft_of(adapted, tokenizer, tmp_path)
    evaluate.restore_adapter(first.model, kept)
    first.train()
    trained, after_sft = evaluate.copy_adapter(first.model), ruler(first.model, tokenizer, PAIRS[:4])
    made = dpo_of(first.model, tokenizer, tmp_path)
    assert list(made.model.peft_config) == ["default", "ref"] and made.ref_model is None
    assert evaluate.own_figures(made)["eval_rewards/margins"] != 0, "rounded to bf16, it is not its reference"
    evaluate.restore_adapter(made.model, trained)
    found = evaluate.own_figures(made)
    assert found["eval_rewards/margins"] == 0 and found["eval_loss"] == pytest.approx(math.log(2))
    whole = (after_sft.chosen * after_sft.chosen_tokens).mean()
    assert found["eval_logps/chosen"] == pytest.approx(whole, rel=1e-4)

    made.train()
    assert evaluate.own_figures(made)["eval_rewards/margins"] != 0
    four = partial(ruler, tokenizer=tokenizer, pairs=PAIRS[:4])
    assert evaluate.check_reference(made.model, four, after_sft) < 1e-6
    now = four(made.model)
    with pytest.raises(AssertionError, match="not the model that DPO started from"):
        evaluate.check_reference(made.model, four, now, most=1e-5)
    margins = evaluate.implicit_margins(now, after_sft, 0.1)
    assert margins.mean() == pytest.approx(evaluate.own_figures(made)["eval_rewards/margins"], rel=1e-3)


# The figure


def some_results() -> dict:
    def track(end, steps=(12,), reference_tokens=0):
        return {
            "steps": steps,
            "reference_tokens": reference_tokens,
            "tokens": 4000,
            "adapters": len(steps),
            "seconds": 2.5,
            "peak_gb": 0.25,
            "points": [
                {"tokens": 0, "chosen": -1.0, "rejected": -0.9, "margin": -0.1, "accuracy": 0.25},
                {"tokens": 4000, "chosen": -0.5, "rejected": end, "margin": -0.5 - end, "accuracy": 0.75},
            ],
        }

    return {"SFT": track(-0.6), "SFT then DPO": track(-0.8, (12, 6), 2000), "DPO": track(-1.2), "ORPO": track(-0.9)}


def test_the_figure_shows_every_method_on_one_scale(no_open_figures):
    results = some_results()
    figure, alt = evaluate.plot_tracks(results, 40)
    *methods, margins, accuracies = figure.axes
    assert len({axis.get_ylim() for axis in methods}) == 1
    for axis, result in zip(methods, results.values(), strict=True):
        drawn = {line.get_label(): line.get_ydata().tolist() for line in axis.lines}
        assert drawn == {side: [point[side] for point in result["points"]] for side in ("chosen", "rejected")}
    assert [line.get_label() for line in margins.lines][: len(results)] == list(results)
    bars = [line for line in accuracies.lines if len(set(line.get_xdata())) == 1]
    assert len(bars) == len(results)
    assert all(np.allclose(bar.get_ydata(), intervals.wilson(0.75, 40)) for bar in bars)
    assert "DPO: chosen from -1.00 to -0.50, rejected from -0.90 to -1.20" in alt


def test_the_account_is_a_row_for_each_method():
    row, two_stages, *_ = evaluate.account_rows(some_results(), 40)
    assert row["accuracy (95 %)"] == "0.75 (0.60 to 0.86)" and row["margin"] == "0.100"
    assert two_stages["steps"] == "12 + 6" and two_stages["by the reference"] == "2,000"
    assert two_stages["tokens trained"] == "4,000" and (row["adapters"], two_stages["adapters"]) == ("1", "2")


def test_notebook_08_takes_the_values_of_every_recipe():
    cells = json.loads((ROOT / "notebooks" / "08_compare_with_sft_and_dpo.ipynb").read_text())["cells"]
    source = "".join(next(cell["source"] for cell in cells if cell["id"] == "params"))
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        given = yaml.safe_load(path.read_text())
        injected = "# Parameters\n" + "\n".join(f"{key} = {value!r}" for key, value in given.items())
        values = {}
        exec(f"{source}\n{injected}", values)
        environment.check_parameters([source, injected], values)
        assert values["MORE"]["dpo_beta"] == 0.1, path
