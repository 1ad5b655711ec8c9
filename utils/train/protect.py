"""Guards `trainer.train()`: what it costs before it starts, a stop at the first NaN, memory, checkpoints, records."""

import time
from types import MethodType, SimpleNamespace

from utils import environment
from utils.train import checks, keep, memory, out_of_memory, profiles, wandb_records


def switch_trainer(trainer, plan):
    """Turn TRL's `ORPOTrainer` into the one that `plan.trainer` names: "trl" (nothing changes), "fused" or "fast".

    "fused" computes the same numbers on packed rows (notebook 09), and one mean of the NLL for as many pairs as TRL
    would take at once on this device; "fast" adds tricks that change the numbers within rounding. Raises
    `fused_orpo.NotServed` for a base that would be trained wrongly.
    """
    if plan.trainer == "trl":
        return trainer
    from utils.train import fast_layers
    from utils.train.fused_orpo import FusedORPOTrainer

    trainer = FusedORPOTrainer.take_over(trainer, nll_group=plan.profile.micro_batch)
    if plan.trainer == "fast":
        fast_layers.speed_up(trainer.model, plan.dtype)
    return trainer


def guard(trainer, plan, resume: bool = False):
    """Protect an `ORPOTrainer` before `trainer.train()`, which stays the call that trains, and return the trainer.

    It becomes the trainer that `plan.trainer` names, with the pairs in a pass that fit this device. It stops at the
    first loss or gradient that is not finite, and names the batch. Where memory runs out it goes on with fewer pairs in
    a pass and more passes in a step. Each checkpoint holds its settings, and with `plan.keep_repo` the newest one is
    always in that private repository. A W&B run starts, online with a key and offline without. Time and peak memory
    are measured, for `keep_run`.

    With `resume` it finds the newest checkpoint, here or in `plan.keep_repo`, and `trainer.train(True)` goes on from
    it, or begins if there is none; one of other settings is a `ValueError`. Without, earlier checkpoints are set aside.
    """
    trainer = switch_trainer(trainer, plan)
    arguments = trainer.args
    arguments.gradient_checkpointing = plan.profile.recompute
    arguments.dataloader_pin_memory = plan.device.kind == "cuda"
    out_of_memory.set_passes(trainer, plan.micro_batch, plan.accumulation)
    trainer.create_accelerator_and_postprocess()  # which takes the number of passes
    settings = keep.run_settings(trainer, plan)
    checkpoint = checks.find_checkpoint(trainer, plan, settings, resume)
    about = settings | {"profile": plan.profile.name, "pairs": _count_pairs(trainer)}
    name = f"{plan.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    project = plan.more.get("wandb_project", "orpo-course")
    run = environment.start_wandb(project, name, about, str(plan.folder), plan.name)
    upload = f"wandb sync {run.settings.sync_dir}"
    print(f"W&B is offline; to upload the run later: {upload}" if run.offline else run.url)

    _log_to_wandb(trainer)
    trainer.add_callback(checks.remember_settings(settings))
    trainer.add_callback(wandb_records.first_panels(run))
    if plan.keep_repo:
        trainer.add_callback(keep.keep_checkpoints(plan.keep_repo, plan.token))
    trainer.training_step = MethodType(checks.finite_training_step(type(trainer).training_step), trainer)

    train_once = trainer.train

    def train(self, resume_from_checkpoint=None):
        """Train within the memory that is there, and measure time and peak."""
        started = time.perf_counter()
        weights = self.model.get_memory_footprint() / 1e9
        begin = checkpoint if resume_from_checkpoint is True else resume_from_checkpoint or None
        with memory.measure_peak() as peak:
            result = out_of_memory.train_within_memory(self, begin, train_once)
        done = int(begin.split("-")[-1]) if begin else 0
        figures = {"seconds": time.perf_counter() - started, "peak_gb": weights + peak.gb, "resumed_from_step": done}
        vars(self.measured).update(figures)
        return result

    trainer.measured = SimpleNamespace(wandb_run=run, predicted_gb=None, checkpoint=checkpoint)
    trainer.train = MethodType(train, trainer)
    return trainer


def load_pairs(plan, tokenizer):
    """Load the pairs of a plan as `data.load_pairs` does, at the commit that `check_run` has looked up.

    The tokenizer gets a pad token that this base model has a row for, and the course's chat template.
    """
    from utils.data import chat_format, loading

    rows = plan.base.skeleton.config.vocab_size if plan.base.skeleton is not None else None
    chat_format.prepare_tokenizer(tokenizer, rows)
    asked = {key: plan.more[key] for key in ("truncate_answers", "seed") if key in plan.more}
    asked |= {key: plan.more[f"dataset_{key}"] for key in ("config", "split") if f"dataset_{key}" in plan.more}
    wanted = plan.num_pairs, plan.num_eval_pairs, plan.max_length
    asked |= {"revision": plan.data.commit or "", "token": plan.token}
    asked["stream_rows"] = max(20_000, 2 * sum(wanted[:2]))  # of data too large to be downloaded: half may be too long
    return loading.load_pairs(plan.data.name, tokenizer, *wanted, **asked)


def _log_to_wandb(trainer) -> None:
    from transformers.integrations import WandbCallback

    if not any(isinstance(callback, WandbCallback) for callback in trainer.callback_handler.callbacks):
        trainer.add_callback(WandbCallback)


def predict_cost(trainer, plan) -> SimpleNamespace:
    """Try the largest pass, time three, print the minutes and GB that the run will take, and return them by part.

    If the pairs with most tokens do not fit into memory as one pass, the pass is halved and the passes of a step are
    doubled, until they fit. Call it after `guard`; the run is left as it was.
    """
    arguments, rows = trainer.args, trainer.train_dataset
    tokens = out_of_memory.try_largest_batch(trainer)
    pairs, passes = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    seconds = checks.seconds_per_micro_batch(trainer)
    steps = -(-len(rows) // (pairs * passes)) * arguments.num_train_epochs
    evaluation = 5 * len(trainer.eval_dataset) / pairs * seconds / 3  # forward only: a third
    minutes = (steps * passes * seconds + evaluation) / 60
    lengths = [len(row[f"{side}_input_ids"]) for row in rows for side in ("chosen", "rejected")]
    hardware = plan.device.dtype, arguments.gradient_checkpointing
    shape = plan.base.skeleton, plan.target_modules, pairs, max(lengths)
    parts = memory.predict(*shape, *hardware, plan.lora_r, profiles.COMPUTES[plan.trainer], tokens)
    gb = sum(parts.values())
    print(f"time:   {minutes:.1f} min predicted: {steps:.0f} steps, {passes} x {seconds:.2f} s each")
    print(f"memory: {gb:.2f} GB predicted at the peak")
    if hasattr(trainer, "measured"):
        trainer.measured.predicted_gb = gb
    return SimpleNamespace(minutes=minutes, gb=gb, parts=parts)


def _count_pairs(trainer) -> dict[str, int]:
    return {"train": len(trainer.train_dataset), "test": len(trainer.eval_dataset)}
