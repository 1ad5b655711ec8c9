"""Running out of memory, injected into real trainers, and once for real: what is learnt stays the same."""

import weakref

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from utils.practice.small_world import preference_pairs
from utils.train import checks as training_checks
from utils.train import out_of_memory as memory_limits
from utils.train.fused_orpo import FusedORPOTrainer


class SmallMemory:
    """Mixin: from pass number `since` on, memory suffices for `most` pairs; the pass that fails leaves its traces."""

    most, since, passes, held = 10**9, 1, 0, None

    def training_step(self, model, inputs, num_items_in_batch=None):
        assert self.held is None or self.held() is None, "a tensor of the pass that failed is still held"
        self.passes += 1
        loss = super().training_step(model, inputs, num_items_in_batch)
        if len(inputs["prompt"]) > self.most and self.passes >= self.since:
            activations = torch.ones(10)
            self.held = weakref.ref(activations)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss


class SmallORPOTrainer(SmallMemory, ORPOTrainer):
    """TRL's trainer on a machine of little memory."""


class SmallFusedORPOTrainer(SmallMemory, FusedORPOTrainer):
    """The fused trainer on a machine of little memory."""


KINDS = {"trl": (SmallORPOTrainer, {}), "fused": (SmallFusedORPOTrainer, {"nll_group": 2})}
PAIRS = preference_pairs(16, seed=0)


@pytest.fixture
def build(small_base, tokenizer, tmp_path):
    """A function that builds a trainer of four steps with eight pairs each: `build("trl", pairs in a pass)`."""

    def build_one(kind, batch, folder="run", pairs=PAIRS, callbacks=(), **settings):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        defaults = {"num_train_epochs": 2, "learning_rate": 1e-3, "warmup_steps": 1, "gradient_checkpointing": False}
        defaults |= {"gradient_accumulation_steps": 8 // batch}
        defaults |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "bf16": False, "max_length": 256}
        arguments = ORPOConfig(
            output_dir=str(tmp_path / folder),
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=batch,
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=True,
            **defaults | settings,
        )
        trainer, options = KINDS[kind]
        data = {"train_dataset": Dataset.from_list(pairs), "eval_dataset": Dataset.from_list(pairs[:4])}
        return trainer(
            model=model, args=arguments, processing_class=tokenizer, callbacks=list(callbacks), **data, **options
        )

    return build_one


def adapter(trainer) -> torch.Tensor:
    weights = [weight.detach().flatten() for weight in trainer.model.parameters() if weight.requires_grad]
    return torch.cat(weights).clone()


def losses(trainer) -> list:
    """What training logged: loss, rate and margin of every step."""
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [entry[name] for entry in logs for name in ("step", "loss", "learning_rate", "rewards/margins")]


def assert_same_run(trainer, expected) -> None:
    assert trainer.state.global_step == expected.state.global_step == 4
    assert losses(trainer) == pytest.approx(losses(expected), abs=1e-5)
    assert (adapter(trainer) - adapter(expected)).abs().max() < 1e-6


@pytest.mark.parametrize("since", [1, 6], ids=["in the first step", "in the middle of the run"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_checkpoint_the_run_begins_again_with_smaller_passes(build, kind, since, capsys):
    expected = build(kind, 2)
    expected.train()
    trainer = build(kind, 4)
    trainer.most, trainer.since = 2, since
    assert memory_limits.train_within_memory(trainer).global_step == 4
    told = "Out of memory with 4 pairs x 2 passes a step: from here on 2 x 4, so a step still sees 8 pairs. "
    assert told + "Training begins again." in capsys.readouterr().out
    assert trainer.passes == since + 16 and trainer.args.per_device_eval_batch_size == 2
    assert_same_run(trainer, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_checkpoint_the_run_goes_on_from_it(build, kind, tmp_path, capsys):
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = build(kind, 4, "whole", **saving)
    whole.train()
    expected = build(kind, 2, "expected")
    expected.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    trainer = build(kind, 4, **saving)
    trainer.most, trainer.since = 2, 6
    memory_limits.train_within_memory(trainer)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert f"8 pairs. Training goes on from {checkpoint}." in capsys.readouterr().out
    assert trainer.passes == 6 + 8
    assert_same_run(trainer, expected)
    small = build(kind, 2, "small")
    small.train()  # without larger passes in its first half, where only groups of the NLL make no difference
    apart = (adapter(trainer) - adapter(small)).norm() / adapter(small).norm()
    assert apart < 1e-5 if kind == "fused" else apart > 1e-4


def test_the_fused_trainer_first_recomputes_every_layer(build, capsys):
    """It keeps what fits, so smaller passes alone would fill the memory again."""
    trainer = build("fused", 4, gradient_checkpointing=True, max_steps=1)
    given = []

    def step(model, inputs, num_items_in_batch=None):
        given.append((trainer.keep_gb, len(inputs["prompt"])))
        if given[-1] != (0, 2):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return type(trainer).training_step(trainer, model, inputs, num_items_in_batch)

    trainer.training_step = step
    memory_limits.train_within_memory(trainer)
    assert given == [(None, 4), (0, 4), *[(0, 2)] * 4]
    told = capsys.readouterr().out
    assert told.index("every layer is recomputed. Training begins again.") < told.index("from here on 2 x 4")


def test_one_pair_that_does_not_fit_says_what_to_do(build):
    trainer = build("trl", 1)
    trainer.most = 0
    before = adapter(trainer)
    with pytest.raises(MemoryError, match="one pair in a pass.* Lower MAX_LENGTH, set TRAINER = 'fused'.* profile"):
        memory_limits.train_within_memory(trainer)
    assert torch.equal(adapter(trainer), before)
    trainer.get_batch_loss_metrics = failing(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(MemoryError, match="one pair in a pass"):
        memory_limits.try_largest_batch(trainer)


def failing(error):
    def fail(*arguments, **keywords):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14 GiB"),
        torch.OutOfMemoryError("HIP said something else"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 b"),
        RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_an_allocation_that_failed_is_known(error):
    assert memory_limits.ran_out_of_memory(error)


# --- for real --------------------------------------------------------------------------------------------------


# --- the largest batch -----------------------------------------------------------------------------------------


def uneven() -> list[dict]:
    """Pairs of which three are long, and the others short."""
    pairs = preference_pairs(9, seed=1)
    for place in (2, 5, 7):
        pairs[place]["prompt"][-1]["content"] += " and so on" * (10 + place)
    return pairs


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_batch_holds_the_longest_pairs_and_changes_nothing(build, kind):
    trainer = build(kind, 3, pairs=uneven(), gradient_checkpointing=True)
    before, random_state = adapter(trainer), torch.get_rng_state()
    passes = []
    compute = trainer.get_batch_loss_metrics

    def noted(model, batch):
        passes.append(batch)
        torch.rand(1)  # as dropout would
        return compute(model, batch)

    trainer.get_batch_loss_metrics = noted
    tokens = memory_limits.try_largest_batch(trainer)
    ((batch,), rows) = passes, [trainer.train_dataset[place] for place in (2, 5, 7)]
    assert sorted(batch["prompt"]) == sorted(row["prompt"] for row in rows)
    assert tokens == training_checks.computed_tokens(trainer.data_collator(rows))
    assert torch.equal(adapter(trainer), before) and torch.equal(torch.get_rng_state(), random_state)
    assert all(weight.grad is None for weight in trainer.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_known_before_the_run(build, kind, capsys):
    expected = build(kind, 2)
    expected.train()
    trainer = build(kind, 8)
    compute, held = trainer.get_batch_loss_metrics, []

    def limited(model, batch, train_eval="train"):
        assert not any(tensor() is not None for tensor in held)
        result = compute(model, batch, train_eval)
        if len(batch["prompt"]) > 2:
            held.append(weakref.ref(result[0]))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return result

    trainer.get_batch_loss_metrics = limited
    memory_limits.try_largest_batch(trainer)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Out of")] == [
        "Out of memory with 8 pairs x 1 passes a step: from here on 4 x 2, so a step still sees 8 pairs.",
        "Out of memory with 4 pairs x 2 passes a step: from here on 2 x 4, so a step still sees 8 pairs.",
    ]
    memory_limits.train_within_memory(trainer)
    assert trainer.passes == 16
    assert_same_run(trainer, expected)
