"""Out of memory: fewer pairs in a pass, and more passes in a step, so that every step still sees the same pairs.

`transformers` has `auto_find_batch_size`, which leaves the passes as they are: the effective batch would shrink, and
with it what the run means. Left out: a trainer that was given an optimizer or scheduler of its own, and the kernel that
ends a process for its memory on a CPU, which no program can catch.
"""

from pathlib import Path

from utils.train.checks import computed_tokens, forward_and_backward

# What `accelerate` does not know: CUDA's and cuBLAS's own words, and the allocator of Windows and macOS.
MESSAGES = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory: you tried to allocate")
HOW = (
    "Out of memory with one pair in a pass, which has no half. Lower MAX_LENGTH, set TRAINER = 'fused' if the base is "
    "served, and on a GPU the profile 't4' in MORE, which keeps no activations; or take a GPU with more memory."
)


def train_within_memory(trainer, checkpoint: str | None = None, train=None):
    """Train, and when memory runs out go on with fewer pairs in a pass and as many pairs in a step.

    The run goes on from its newest checkpoint, or else begins again from the weights that it had. It ends as if it had
    had the smaller passes from there on, with one exception: where a pass becomes smaller than a group of the NLL (all
    pairs of a pass in TRL's trainer, `nll_group` in the fused one), that mean is taken over fewer pairs.

    Returns what `trainer.train` does. Raises `MemoryError` with one pair in a pass, which says what to change.
    """
    folder = Path(trainer.args.output_dir)
    earlier = _checkpoints(folder)
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    beginning = [weight.detach().to("cpu", copy=True) for weight in trained]
    while True:
        try:
            return (train or trainer.train)(resume_from_checkpoint=checkpoint)
        except Exception as error:
            told = _halve(trainer, error)
        # The error is gone here, and with its traceback the tensors of the pass that failed.
        for weight, value in zip(trained, beginning, strict=True):
            weight.data.copy_(value)
        trainer.optimizer = trainer.lr_scheduler = None  # train() would go on with their moments and steps
        trainer.create_accelerator_and_postprocess()  # and with the loss scale
        trainer._stored_metrics.clear()  # of passes whose step was never made
        own = _checkpoints(folder) - earlier  # of this run
        checkpoint = str(max(own, key=lambda path: int(path.name.split("-")[-1]))) if own else checkpoint
        print(f"{told} Training {f'goes on from {checkpoint}' if checkpoint else 'begins again'}.")


def try_largest_batch(trainer) -> int:
    """Do a pass over the pairs with most tokens, halve it until it fits, and return the tokens that it computes.

    The run is left as it was. While it trains, the optimizer's state comes on top: two numbers for each trained weight.
    Raises `MemoryError` with one pair in a pass, which says what to change.
    """
    import torch
    from accelerate.utils import release_memory

    rows, collate = trainer.train_dataset, trainer.data_collator
    sizes = [computed_tokens(collate([row])) for row in rows]
    longest = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
    while True:
        batch = collate([rows[place] for place in longest[: trainer.args.per_device_train_batch_size]])
        try:
            with torch.random.fork_rng():
                forward_and_backward(trainer, batch)
            return computed_tokens(batch)
        except Exception as error:
            told = _halve(trainer, error)
        finally:
            trainer.model.zero_grad()
        release_memory()
        print(told)


def ran_out_of_memory(error: Exception) -> bool:
    """Say whether an error is that of an allocation that failed, on a GPU or a CPU."""
    from accelerate.utils.memory import should_reduce_batch_size
    from torch import OutOfMemoryError

    known = isinstance(error, OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)
    return known or isinstance(error, RuntimeError) and any(words in str(error) for words in MESSAGES)


def _halve(trainer, error: Exception) -> str:
    """Give a trainer smaller passes and more of them, and return the sentence; raise what this does not mend.

    The fused trainer keeps activations where memory is free, so it would fill it again: first it keeps none.
    """
    arguments = trainer.args
    pairs, passes = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    if not ran_out_of_memory(error):
        raise error
    if arguments.gradient_checkpointing and getattr(trainer, "keep_gb", 0) is None:
        vars(trainer)["keep_gb"] = 0  # which only the fused trainer has
        return "Out of memory: from here on every layer is recomputed."
    if pairs == 1:
        raise MemoryError(HOW) from error
    fewer = max(size for size in range(1, pairs // 2 + 1) if pairs % size == 0)
    set_passes(trainer, fewer, passes * pairs // fewer)
    return (
        f"Out of memory with {pairs} pairs x {passes} passes a step: from here on {fewer} x {passes * pairs // fewer}, "
        f"so a step still sees {pairs * passes} pairs."
    )


def set_passes(trainer, pairs: int, passes: int) -> None:
    """Give a trainer, before it trains, the pairs of a pass and the passes of a step."""
    arguments = trainer.args
    arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps = pairs, passes
    arguments.per_device_eval_batch_size = pairs
    trainer._train_batch_size = arguments.train_batch_size


def _checkpoints(folder: Path) -> set[Path]:
    """List the checkpoints that are whole: the trainer writes its state last."""
    return {path.parent for path in folder.glob("checkpoint-*/trainer_state.json")}
