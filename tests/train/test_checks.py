"""Faults around the training loop, injected into the real trainer on the small base."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from utils.curves import wandb_runs
from utils.practice import stand_ins
from utils.train import checks as training_checks
from utils.train import model_loading
from utils.train.fused_orpo import FusedORPOTrainer


class GuardedORPOTrainer(ORPOTrainer):
    """The trainer of notebook 03."""

    training_step = training_checks.finite_training_step(ORPOTrainer.training_step)


class GuardedFusedORPOTrainer(FusedORPOTrainer):
    """The fast one."""

    training_step = training_checks.finite_training_step(FusedORPOTrainer.training_step)


@pytest.fixture
def build(small_base, tokenizer, tmp_path):
    """A function that builds a trainer of either kind on given pairs."""

    def build(kind, pairs, **settings):
        torch.manual_seed(0)
        model = model_loading.load_base(str(small_base), torch.float32, four_bit=False)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        defaults = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "max_length": 128}
        defaults |= {"gradient_checkpointing": False, "bf16": False}
        arguments = ORPOConfig(
            output_dir=str(tmp_path / "run"),
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
            **(defaults | settings),
        )
        return kind(model=model, args=arguments, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)

    return build


def adapter(trainer) -> torch.Tensor:
    weights = [weight.detach().flatten() for weight in trainer.model.parameters() if weight.requires_grad]
    return torch.cat(weights).clone()


def unfit_pair() -> dict:
    """A pair whose prompt alone fills the window, which leaves no answer and makes the loss 0 / 0."""
    pair = stand_ins.preference_pairs(1, seed=3)[0]
    pair["prompt"][-1]["content"] += " and so on" * 200
    return pair


@pytest.mark.parametrize("kind", [GuardedORPOTrainer, GuardedFusedORPOTrainer])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(build, kind):
    trainer = build(kind, [unfit_pair()] * 2)
    before = adapter(trainer)
    with pytest.raises(FloatingPointError, match=r"(?s)Step 1: the loss is nan.*and so on"):
        trainer.train()
    assert torch.equal(adapter(trainer), before)


def test_the_stock_trainer_trains_on(build):
    """Shows that the fault above is real: stock logs loss 0.0 and spoils the weights."""
    trainer = build(ORPOTrainer, [unfit_pair()] * 2)
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer.state.log_history[0]["loss"] == 0.0
    assert not adapter(trainer).isfinite().all()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_stops_the_run(build, value):
    trainer = build(GuardedORPOTrainer, stand_ins.preference_pairs(4, seed=0))
    name, weight = next(item for item in trainer.model.named_parameters() if item[1].requires_grad)
    weight.register_hook(lambda gradient: torch.full_like(gradient, value))
    before = adapter(trainer)
    with pytest.raises(FloatingPointError, match="Step 1: the gradient of .*lora_A"):
        trainer.train()
    assert torch.equal(adapter(trainer), before)


@pytest.fixture
def wandb_run(tmp_path):
    """An offline W&B run, active."""
    import wandb

    run = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(console="off", x_disable_stats=True))
    yield run
    run.finish()
    wandb.teardown()


def alerts(run) -> list:
    """Finish a run and return the alerts that its file holds, for `wandb sync` to send."""
    import wandb

    run.finish()
    wandb.teardown()  # ends W&B's service, which writes the file, and may not have written all of it before
    (file,) = Path(run.settings.sync_dir).glob("run-*.wandb")
    records = wandb_runs._records(file)
    return [record.alert for record in records if record.WhichOneof("record_type") == "alert"]


def test_a_loss_that_is_not_finite_is_an_alert_without_prompts(build, wandb_run):
    with pytest.raises(FloatingPointError, match="and so on"):
        build(GuardedORPOTrainer, [unfit_pair()] * 2).train()
    (alert,) = alerts(wandb_run)
    assert (alert.level, alert.title) == ("ERROR", "Step 1: a loss that is not finite")
    assert alert.text == "Step 1: the loss is nan. Training stops before the weights are changed."


def test_a_gradient_that_is_not_finite_is_an_alert(build, wandb_run):
    trainer = build(GuardedORPOTrainer, stand_ins.preference_pairs(2, seed=0))
    name, weight = next(item for item in trainer.model.named_parameters() if item[1].requires_grad)
    weight.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    with pytest.raises(FloatingPointError):
        trainer.train()
    (alert,) = alerts(wandb_run)
    assert alert.title == "Step 1: a gradient that is not finite"
    assert alert.text.startswith(f"Step 1: the gradient of {name} is inf.")


def test_an_alert_that_fails_does_not_hide_why_training_stopped(build, wandb_run, monkeypatch, capsys):
    import wandb

    wandb_run.finish()
    monkeypatch.setattr(wandb, "run", wandb_run)  # as active, though it takes nothing more
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        build(GuardedORPOTrainer, [unfit_pair()] * 2).train()
    assert "W&B did not take the alert (UsageError)" in capsys.readouterr().out


def test_a_sound_run_is_left_alone(build):
    pairs = stand_ins.preference_pairs(6, seed=0)
    guarded, stock = build(GuardedORPOTrainer, pairs), build(ORPOTrainer, pairs)
    guarded.train()
    stock.train()
    assert torch.equal(adapter(guarded), adapter(stock))


class Waits(TorchDispatchMode):
    """Counts the values that are read on the host, for each of which it would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.count += operation.overloadpacket.__name__ == "_local_scalar_dense"
        return operation(*arguments, **keywords or {})


def test_a_micro_batch_is_checked_in_one_wait(build):
    waits = []
    for kind in (ORPOTrainer, GuardedORPOTrainer):
        trainer = build(kind, stand_ins.preference_pairs(4, seed=0), gradient_accumulation_steps=2)
        with Waits() as counted:
            trainer.train()
        waits.append(counted.count)
    assert sum(weight.requires_grad for weight in trainer.model.parameters()) > 20
    assert waits[1] - waits[0] == 6  # three steps of two micro-batches


def test_large_gradients_that_are_finite_stop_nothing(build):
    """The length of all gradients overflows, and no gradient does."""
    trainer = build(GuardedORPOTrainer, stand_ins.preference_pairs(4, seed=0), max_steps=1)
    _, weight = next(item for item in trainer.model.named_parameters() if "lora_B" in item[0])
    weight.register_hook(lambda gradient: torch.full_like(gradient, 1e38))
    trainer.train()
    assert trainer.state.global_step == 1


def test_resume_without_a_checkpoint_says_so_and_starts_afresh(tmp_path, capsys):
    assert training_checks.newest_checkpoint(tmp_path / "nothing", {}) is None
    assert "starts afresh" in capsys.readouterr().out


def test_resume_takes_the_newest_checkpoint(tmp_path, capsys):
    for step in (5, 100, 25):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert training_checks.newest_checkpoint(tmp_path, {}) == str(tmp_path / "checkpoint-100")
    assert "checkpoint-100" in capsys.readouterr().out


def test_a_checkpoint_of_other_settings_is_not_resumed_from(tmp_path):
    settings = {"learning_rate": 8e-5, "target_modules": ("q_proj",), "seed": 42}
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state, arguments = SimpleNamespace(global_step=step), SimpleNamespace(output_dir=str(tmp_path))
        training_checks.remember_settings(settings).on_save(arguments, state, None)
    assert training_checks.newest_checkpoint(tmp_path, settings) == str(tmp_path / "checkpoint-10")
    with pytest.raises(ValueError, match="checkpoint-10 was trained with learning_rate = 8e-05 and not 0.001: ask for"):
        training_checks.newest_checkpoint(tmp_path, settings | {"learning_rate": 1e-3})


def test_an_earlier_runs_checkpoints_are_set_aside(tmp_path):
    (tmp_path / "checkpoints" / "checkpoint-125").mkdir(parents=True)
    training_checks.set_aside(tmp_path / "checkpoints")
    assert training_checks.newest_checkpoint(tmp_path / "checkpoints", {}) is None
    (kept,) = tmp_path.glob("checkpoints-until-*")
    assert (kept / "checkpoint-125").is_dir()
    training_checks.set_aside(tmp_path / "nothing there")


def test_a_pass_is_timed_as_it_will_run(build):
    """With recompute asked for, it is on while the time is taken: without it, Llama 3 8B would not fit."""
    pairs = stand_ins.preference_pairs(2, seed=0)
    trainer = build(GuardedORPOTrainer, pairs, gradient_checkpointing=True)
    layers = []
    trainer.model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *_: layers.append(1))
    training_checks.seconds_per_micro_batch(trainer)
    assert len(layers) == 4  # two passes, each of them forward and once more on the way back


def test_a_pass_computes_in_the_precision_of_the_run(build):
    """`train()` makes the logits of a 16-bit run fp32, twice the memory: a pass without it would promise too much."""
    trainer = build(GuardedORPOTrainer, stand_ins.preference_pairs(2, seed=0), bf16=True, use_cpu=True, max_steps=1)
    dtypes = []
    trainer.model.register_forward_hook(lambda module, inputs, output: dtypes.append(output.logits.dtype))
    training_checks.forward_and_backward(trainer, next(iter(trainer.get_train_dataloader())))
    trainer.train()
    assert dtypes == [torch.float32] * 2


def test_the_tokens_of_a_pass_are_those_that_are_computed(build):
    pairs = stand_ins.preference_pairs(4, seed=0)
    stock, fused = build(ORPOTrainer, pairs), build(FusedORPOTrainer, pairs)
    rows = list(stock.train_dataset)
    lengths = [[len(row[f"{side}_input_ids"]) for side in ("chosen", "rejected")] for row in rows]
    padded = training_checks.computed_tokens(stock.data_collator(rows))
    packed = training_checks.computed_tokens(fused.data_collator(rows))
    assert padded == 2 * 4 * max(map(max, lengths))
    assert packed < sum(map(sum, lengths)) < padded  # prompts once, and no padding
    seen = []
    stock.model.get_base_model().model.register_forward_pre_hook(
        lambda module, inputs, named: seen.append(named["input_ids"].numel()), with_kwargs=True
    )
    stock.get_batch_loss_metrics(stock.model, stock.data_collator(rows))
    assert seen == [padded]


@pytest.mark.parametrize("kind", [GuardedORPOTrainer, FusedORPOTrainer])
def test_timing_a_pass_changes_nothing(build, kind):
    trainer = build(kind, stand_ins.preference_pairs(4, seed=0))
    before, random_state = adapter(trainer), torch.get_rng_state()
    assert 0 < training_checks.seconds_per_micro_batch(trainer) < 60
    assert torch.equal(adapter(trainer), before)
    assert all(weight.grad is None for weight in trainer.model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
