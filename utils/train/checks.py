"""What is checked around `trainer.train()`: finite losses and gradients, where to resume, how long it will take."""

import json
import time
from itertools import islice
from pathlib import Path

SETTINGS = "run_settings.json"  # in each checkpoint


def finite_training_step(step):
    """Return a trainer's `training_step` that stops at the first loss or gradient that is not finite, naming the batch.

    Without it `transformers` trains on, and the optimizer spreads the NaN over all weights. With loss scaling (fp16) an
    infinite gradient is how the scale is found, so only the loss counts. A W&B run that is active sends an alert,
    which goes out by mail and has no prompts.
    """

    def training_step(self, model, inputs, num_items_in_batch=None):
        import torch

        loss = step(self, model, inputs, num_items_in_batch)
        weights = [] if self.args.fp16 else [item for item in model.named_parameters() if item[1].grad is not None]
        # One number that is finite if all are: to ask each of hundreds would make the GPU wait each time.
        if not (loss + torch.nn.utils.get_total_norm([weight.grad for _, weight in weights])).isfinite():
            if not loss.isfinite():
                _stop(self, "loss", loss.item(), inputs)
            for name, weight in weights:
                if not weight.grad.isfinite().all():
                    _stop(self, f"gradient of {name}", weight.grad.abs().max().item(), inputs)
        return loss

    return training_step


def _stop(trainer, what: str, value: float, inputs: dict):
    step = trainer.state.global_step + 1
    found = f"Step {step}: the {what} is {value}. Training stops before the weights are changed."
    _alert(f"Step {step}: a {what.split()[0]} that is not finite", found)
    prompts = "\n".join(f"- {prompt[-120:]!r}" for prompt in inputs.get("prompt", []))
    raise FloatingPointError(
        f"{found} The batch holds the prompts\n{prompts}\nLook at these rows; if they are sound, "
        "lower LEARNING_RATE, or, on a T4, take a GPU that has bf16."
    )


def find_checkpoint(trainer, plan, settings: dict, resume: bool) -> str | None:
    """Return the newest checkpoint, in `output_dir` or in `plan.keep_repo`; `None` without `resume`.

    Without, checkpoints of an earlier run are set aside, and the one in `plan.keep_repo` is deleted (its history has it
    still). Raises `ValueError` for a checkpoint of other settings: the two would end as neither run.
    """
    from utils.train import keep

    folder = trainer.args.output_dir
    if resume:
        if plan.keep_repo:
            keep.fetch_checkpoints(plan.keep_repo, folder, plan.token)
        return newest_checkpoint(folder, settings)
    set_aside(folder)
    if plan.keep_repo:
        keep.forget_checkpoints(plan.keep_repo, plan.token)
    return None


def remember_settings(settings: dict):
    """Make a trainer callback that writes the settings into each checkpoint, for `newest_checkpoint` to compare."""
    from transformers import TrainerCallback

    class RemembersSettings(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (checkpoint / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")

    return RemembersSettings()


def newest_checkpoint(folder, settings: dict) -> str | None:
    """Find the newest checkpoint to resume from; if there is none, say so and return `None`."""
    checkpoints = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]))
    if not checkpoints:
        print(f"There is no checkpoint in {folder} to resume from: training starts afresh.")
        return None
    found = json.loads((checkpoints[-1] / SETTINGS).read_text()) if (checkpoints[-1] / SETTINGS).exists() else {}
    wanted = json.loads(json.dumps(settings))
    other = {key: found.get(key) for key in wanted if found and found.get(key) != wanted[key]}
    if other:
        told = ", ".join(f"{key} = {value!r} and not {wanted[key]!r}" for key, value in other.items())
        raise ValueError(
            f"{checkpoints[-1]} was trained with {told}: ask for the same, or begin anew with RESUME = False."
        )
    print(f"Resuming from {checkpoints[-1]}.")
    return str(checkpoints[-1])


def set_aside(folder) -> None:
    """Rename a folder of an earlier run's checkpoints, so that the new run, which starts afresh, never takes one."""
    if any(Path(folder).glob("checkpoint-*")):  # the trainer makes the folder, empty, when it is built
        Path(folder).rename(f"{folder}-until-{time.strftime('%Y%m%d-%H%M%S')}")


def computed_tokens(batch: dict) -> int:
    """Count the tokens that a pass over a collated batch computes, padding among them."""
    if "input_ids" in batch:
        return batch["input_ids"].numel()
    return 2 * max(batch[f"{side}_input_ids"].numel() for side in ("chosen", "rejected"))


def forward_and_backward(trainer, batch: dict) -> None:
    """Do a training pass over a collated batch, with the model as `train()` will have it; gradients stay behind."""
    if trainer.args.gradient_checkpointing:  # train() would switch it on only later, and without it nothing fits
        trainer.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs
        )
    trainer.accelerator.prepare_model(trainer.model)  # once; where it computes in 16 bits, logits become fp32
    trainer.model.train()
    with trainer.accelerator.autocast():
        loss, _ = trainer.get_batch_loss_metrics(trainer.model, trainer._prepare_inputs(dict(batch)))
    loss.backward()


def seconds_per_micro_batch(trainer) -> float:
    """Return the seconds of a training pass of mean size; the run is left as it was.

    Three passes are timed, after one that warms up, and scaled to the mean tokens of 24 batches.
    """
    import torch

    with torch.random.fork_rng():  # taking batches draws random numbers that the run must not miss
        batches = list(islice(trainer.get_train_dataloader(), 24))
    sizes = [computed_tokens(batch) for batch in batches]
    for batch in [batches[0], *batches[:3]]:
        if batch is batches[0]:  # twice: the first pass warms up
            started = time.perf_counter()
        forward_and_backward(trainer, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        trainer.model.zero_grad()
    seconds_per_token = (time.perf_counter() - started) / sum(sizes[:3])
    return seconds_per_token * sum(sizes) / len(sizes)


def _alert(title: str, text: str) -> None:
    try:
        import wandb

        if wandb.run is not None:
            wandb.run.alert(title, text, level="ERROR")
    except Exception as error:  # no wandb, or one that died: neither may hide what stops the training
        print(f"W&B did not take the alert ({type(error).__name__}).")
