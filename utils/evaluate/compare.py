"""Lays one ruler on models that different methods train, and keeps an account of what each method costs.

The ruler is `utils.evaluate.scores.score_pairs`: a data frame with a row for each held-out pair. Beside it: what makes
the start fair, the same adapter weights for every trainer. Left out: the training itself, which notebook 08 shows, and
whether answers are any good, which no log-probability tells.
"""

import gc
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from utils.train import memory


@dataclass
class Track:
    """What one method cost, and where it stood on the way."""

    points: list[tuple]  # tokens trained on so far, and the data frame that the ruler gave
    held_gb: float = 0.0  # before the method loaded anything
    seconds: float = 0.0  # of training, without the ruler
    peak_gb: float = 0.0  # while it trained, above what was held before

    @property
    def tokens(self) -> int:
        """Tokens trained on in all."""
        return self.points[-1][0]

    @property
    def last(self):
        """What the ruler gave last."""
        return self.points[-1][1]

    def as_dict(self) -> dict:
        """Return costs, and what the ruler gave on average, ready for JSON."""
        points = [{"tokens": tokens} | averages(table) for tokens, table in self.points]
        return {"points": points, "tokens": self.tokens, "seconds": self.seconds, "peak_gb": self.peak_gb}

    def __str__(self) -> str:
        """Say what changed from the first to the last point."""
        first, last = averages(self.points[0][1]), averages(self.last)
        return ", ".join(f"{name} {first[name]:.3f} -> {last[name]:.3f}" for name in first)


def averages(table) -> dict[str, float]:
    """Average what the ruler gave over pairs.

    Args:
        table: of `utils.evaluate.scores.score_pairs`.

    Returns:
        `chosen`, `rejected` and `margin`, the difference, in nats a token; and `accuracy`, the share of pairs whose
        chosen answer has the higher mean log-probability.

    Example:
        >>> import pandas as pd
        >>> averages(pd.DataFrame({"chosen": [-1.0, -2.0], "rejected": [-3.0, -1.0], "margin": [2.0, -1.0]}))
        {'chosen': -1.5, 'rejected': -2.0, 'margin': 0.5, 'accuracy': 0.5}
    """
    means = {name: float(table[name].mean()) for name in ("chosen", "rejected", "margin")}
    return means | {"accuracy": float((table["margin"] > 0).mean())}


def implicit_margins(table, reference, beta: float):
    """Return DPO's margin of each pair: beta * (what the chosen answer gained - what the rejected one gained).

    Rafailov et al. 2023, arXiv 2305.18290, section 4: the reward that a policy implies is beta * log(policy /
    reference) of the whole answer, so here the mean of a token is multiplied by the answer's tokens.

    Args:
        table, reference: of `utils.evaluate.scores.score_pairs`, the same pairs in the same order.
        beta: DPO's.

    Returns:
        pandas series, in beta * nats.
    """
    gained = {side: (table[side] - reference[side]) * table[f"{side}_tokens"] for side in ("chosen", "rejected")}
    return beta * (gained["chosen"] - gained["rejected"])


class CountsTokens:
    """Mixin for a trainer of TRL that counts the tokens it trains on: real ones, forward and backward, no padding."""

    trained_tokens = 0

    def training_step(self, model, inputs, *arguments, **keywords):
        """Count a micro-batch, and train on it."""
        # One mask in a batch of SFT and DPO, one for each side in one of ORPO, whose prompt's own is a part of both
        masks = [inputs[name] for name in inputs if name.endswith("attention_mask") and not name.startswith("prompt")]
        self.trained_tokens += sum(int(mask.sum()) for mask in masks)
        return super().training_step(model, inputs, *arguments, **keywords)


def counting(kind):
    """Return a trainer class that counts the tokens it trains on, see `CountsTokens`.

    Args:
        kind: `SFTTrainer`, `DPOTrainer` or `ORPOTrainer` of TRL.
    """
    return type(f"Counting{kind.__name__}", (CountsTokens, kind), {})


def start_track(before) -> Track:
    """Begin a method's track at the base, once what earlier methods left in memory is gone.

    Args:
        before: what the ruler gave the base, the same for every method.
    """
    gc.collect()  # a trainer and its model refer to each other in circles
    with memory.measure_peak():  # which begins by giving back to the system what was freed
        held = _held_gb()
    return Track([(0, before)], held)


def train_and_measure(counted, ruler, track: Track, times: int = 4) -> None:
    """Train, and lay the ruler on at equal distances; a second stage goes on where the track ends.

    Args:
        counted: trainer of a class of `counting`, with `max_steps` set.
        ruler: function of a model that returns the data frame of `utils.evaluate.scores.score_pairs`.
        track: of `start_track`; gets points, seconds and peak.
        times: measurements, the last of them after the last step.
    """
    from transformers import TrainerCallback

    steps, before, parts = counted.args.max_steps, track.tokens, ExitStack()
    stops = {round(steps * number / times) for number in range(1, times + 1)}

    class LaysRulerOn(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in stops:
                parts.close()
                track.points.append((before + counted.trained_tokens, ruler(counted.model)))
                parts.enter_context(_part(track))

    callback = LaysRulerOn()
    counted.add_callback(callback)
    with parts:
        parts.enter_context(_part(track))
        counted.train()
    counted.remove_callback(callback)


@contextmanager
def _part(track: Track):
    """Add seconds and peak of a part of a training to its track, so that the ruler counts for neither."""
    started = time.perf_counter()
    with memory.measure_peak() as peak:
        held = _held_gb() - track.held_gb
        yield
    track.peak_gb = max(track.peak_gb, held + peak.gb)
    track.seconds += time.perf_counter() - started


def _held_gb() -> float:
    import torch

    return torch.cuda.memory_allocated() / 1e9 if torch.cuda.is_available() else memory.resident_gb()


def own_figures(counted) -> dict[str, float]:
    """Return what a trainer says itself of its held-out pairs, without the table that it shows in a notebook."""
    from IPython.utils.capture import capture_output

    with capture_output():
        return counted.evaluate()


def adapter_weights(model) -> dict:
    """Copy the weights of a model's trained adapter, as fp32: name -> tensor."""
    return {name: weight.detach().float().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def put_weights(model, weights: dict) -> None:
    """Give a model's trained adapter these weights, in fp32, and see that they are all.

    Of a 4-bit base, TRL's SFT and DPO trainers round a trained adapter to bf16 as they are built, and its ORPO trainer
    does not: the methods would not start alike. Nor does the loss scaling of fp16 take gradients in bf16.

    Args:
        model: with the same adapter as the one that the weights were copied from.
        weights: of `adapter_weights`.

    Raises:
        ValueError: if the model trains other weights than these.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if other := sorted(trained.keys() ^ weights.keys()):
        raise ValueError(
            f"{len(other)} weights are trained or kept, but not both, such as {other[0]}: build the model with the "
            "same LoraConfig as the one whose weights were kept."
        )
    for name, weight in trained.items():
        weight.data = weights[name].to(weight.device).clone()
