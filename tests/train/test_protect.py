"""The calls that a notebook makes around `trainer.train()`, on a real run: two runs on one machine, then on another."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from utils import hub as hub_access
from utils import preflight, train
from utils.practice.small_world import preference_pairs
from utils.train import fit

BASE, DATA = "NousResearch/Meta-Llama-3-8B", "mlabonne/orpo-dpo-mix-40k@v1.0"
PAIRS = {"train": preference_pairs(16, seed=0), "test": preference_pairs(4, seed=1)}


def check(folder, **options):
    values = {"num_pairs": 16, "num_eval_pairs": 4, "max_length": 256, "effective_batch": 8, "lora_r": 4, "seed": 1}
    return train.check_run(BASE, DATA, folder, **values | options)


def build(plan, tokenizer, kind=ORPOTrainer, **options):
    torch.manual_seed(0)
    model = train.load_base(plan.base.name, plan.dtype, plan.base.commit)
    lora = LoraConfig(r=plan.lora_r, target_modules=list(plan.target_modules), task_type="CAUSAL_LM")
    values = {"num_train_epochs": 2, "learning_rate": 1e-3, "save_steps": 2, "eval_steps": 0.5, "warmup_steps": 1}
    arguments = ORPOConfig(
        output_dir=str(plan.folder / "checkpoints"),
        per_device_train_batch_size=1,  # guard makes it what fits
        per_device_eval_batch_size=plan.micro_batch,
        gradient_accumulation_steps=8,
        gradient_checkpointing=plan.profile.recompute,
        max_length=plan.max_length,
        eval_strategy="steps",
        eval_on_start=True,
        logging_steps=1,
        bf16=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
        **values | options,
    )
    data = {f"{side}_dataset": Dataset.from_list(PAIRS[part]) for side, part in (("train", "train"), ("eval", "test"))}
    return kind(get_peft_model(model, lora), arguments, processing_class=tokenizer, **data)


class DiesOnce(ORPOTrainer):
    """A trainer whose machine goes after two of four steps."""

    def training_step(self, *args):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return super().training_step(*args)


@pytest.fixture(scope="module", autouse=True)
def no_run_is_left():
    """A W&B run that a test leaves active would take what the next file logs."""
    yield
    import wandb

    wandb.finish()


@pytest.fixture(scope="module")
def runs(hub, tokenizer, tmp_path_factory):
    """One run as it should be; one that dies after two steps, and goes on from KEEP_REPO in another folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "practice-write")
        folder = tmp_path_factory.mktemp("protect")
        made = SimpleNamespace()
        made.plan = check(folder / "one")
        made.whole = train.guard(build(made.plan, tokenizer), made.plan)
        made.cost = train.predict_cost(made.whole, made.plan)
        made.whole.train(resume_from_checkpoint=False)
        made.record = train.keep_run(made.whole, made.plan, PAIRS, {"examined": 20, "dropped": {}}, {"prompt": ["?"]})
        died = check(folder / "two", keep_repo="learner/kept-protect")
        trainer = train.guard(build(died, tokenizer, DiesOnce), died)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # the upload arrives
        made.again = check(folder / "three", keep_repo="learner/kept-protect")
        made.resumed = train.guard(build(made.again, tokenizer), made.again, resume=True)
        made.checkpoint = made.resumed.measured.checkpoint
        made.resumed.train(resume_from_checkpoint=True)
        train.keep_run(made.resumed, made.again, PAIRS, {"examined": 20, "dropped": {}})
        yield made


def adapter(trainer) -> torch.Tensor:
    weights = [weight.detach().flatten() for weight in trainer.model.parameters() if weight.requires_grad]
    return torch.cat(weights)


def test_a_plan_names_what_the_run_is_made_of(runs):
    plan = runs.plan
    assert plan.base.commit == hub_access.describe_repository(BASE).commit and plan.data.mix is None
    assert plan.data.commit == hub_access.describe_repository("mlabonne/orpo-dpo-mix-40k", "dataset", "v1.0").commit
    assert plan.micro_batch * plan.accumulation == 8 and "q_proj" in plan.target_modules
    assert plan.more == {"seed": 1}


def test_what_a_card_warns_of_is_in_the_table_and_stops_nothing(runs, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setitem(fit.WARNINGS, DATA.split("@")[0], "do not publish it")
    monkeypatch.setattr(preflight, "as_table", shown.extend)
    assert check(tmp_path / "run").data.warning == "do not publish it"
    assert [line.mend for line in shown if not line.fine] == ["do not publish it"]


def test_a_run_that_goes_on_elsewhere_ends_as_one_that_never_stopped(runs):
    assert runs.checkpoint.endswith("checkpoint-2") and "three" in runs.checkpoint
    assert torch.equal(adapter(runs.whole), adapter(runs.resumed))
    assert runs.resumed.measured.resumed_from_step == 2


def test_a_run_with_another_setting_does_not_go_on(runs, tokenizer):
    other = build(runs.again, tokenizer, learning_rate=2e-3)
    with pytest.raises(ValueError, match="learning_rate = 0.001 and not 0.002"):
        train.guard(other, runs.again, resume=True)


def test_the_record_holds_what_was_trained_and_what_it_cost(runs):
    record = json.loads((runs.plan.folder / "run.json").read_text())
    assert record == json.loads(json.dumps(runs.record))
    assert record["recipe"]["learning_rate"] == 1e-3 and record["recipe"]["effective_batch"] == 8
    assert record["steps"] == 4 and record["pairs"] == {"train": 16, "test": 4}
    assert 0 < record["peak_memory_gb"] < 2 and record["predicted_peak_memory_gb"] == pytest.approx(runs.cost.gb)
    assert record["eval"]["after"]["nll_loss"] < record["eval"]["before"]["nll_loss"]
    assert json.loads((runs.plan.folder / "held_out.json").read_text())[0] in PAIRS["test"]
    assert (runs.plan.folder / "adapter" / "adapter_model.safetensors").exists()


def test_what_is_kept_is_found_from_another_machine(runs, tmp_path):
    folder, run, held_out = train.find_adapter("learner/kept-protect", tmp_path / "run", "practice-write")
    assert run["steps"] == 4 and len(held_out) == 4 and (folder / "adapter_model.safetensors").exists()


def test_a_loss_that_is_no_number_stops_a_guarded_trainer(runs, tokenizer, tmp_path):
    plan = check(tmp_path / "run")
    trainer = train.guard(build(plan, tokenizer), plan)
    next(weight for weight in trainer.model.parameters() if weight.requires_grad).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="Step 1: the loss is nan"):
        trainer.train()


def test_the_fused_trainer_takes_over_and_trains_alike(runs, tokenizer, tmp_path):
    plan = check(tmp_path / "run", trainer="fused")
    trainer = train.guard(build(plan, tokenizer), plan)
    trainer.train()
    losses = [[entry["loss"] for entry in it.state.log_history if "loss" in entry] for it in (runs.whole, trainer)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_layers_that_a_base_lacks_are_refused(hub, tmp_path):
    with pytest.raises(train.fit.preflight.NotReady, match="no dense.*target_modules"):
        check(tmp_path / "run", target_modules=["q_proj", "dense"])
