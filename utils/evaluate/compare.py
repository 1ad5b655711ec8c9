"""Measures models that different methods train on the same held-out pairs, and what each method costs.

The ruler is a function of a model that returns the data frame of `score_pairs`. Left out: the training itself, which
notebook 08 shows, and whether answers are any good, which no log-probability tells.
"""

import time
from dataclasses import dataclass

from utils.evaluate.scores import SIDES
from utils.intervals import wilson


@dataclass
class Track:
    """What one method cost, and what the ruler gave on the way."""

    points: list[tuple]  # tokens trained on so far, and the data frame of the ruler
    seconds: float = 0.0  # of training, without the ruler
    peak_gb: float = 0.0  # of the weights, and of the most memory above them while it trained

    @property
    def tokens(self) -> int:
        """Tokens trained on in all."""
        return self.points[-1][0]

    @property
    def last(self):
        """What the ruler gave last."""
        return self.points[-1][1]

    def as_dict(self) -> dict:
        """Return costs, and the averages of the ruler, ready for JSON."""
        points = [{"tokens": tokens} | averages(table) for tokens, table in self.points]
        return {"points": points, "tokens": self.tokens, "seconds": self.seconds, "peak_gb": self.peak_gb}

    def __str__(self) -> str:
        first, last = averages(self.points[0][1]), averages(self.last)
        return ", ".join(f"{name} {first[name]:.3f} -> {last[name]:.3f}" for name in first)


def averages(table) -> dict[str, float]:
    """Average a table of `score_pairs`: chosen, rejected and margin in nats a token, and accuracy."""
    means = {name: float(table[name].mean()) for name in (*SIDES, "margin")}
    return means | {"accuracy": float((table["margin"] > 0).mean())}


def implicit_margins(table, reference, beta: float):
    """Return DPO's margin of each pair: beta * (gain of the whole chosen answer - gain of the whole rejected one).

    Rafailov et al. 2023, arXiv 2305.18290, section 4.
    """
    gained = {side: (table[side] - reference[side]) * table[f"{side}_tokens"] for side in SIDES}
    return beta * (gained["chosen"] - gained["rejected"])


def counting(kind):
    """Return a class of TRL's trainer that counts in `trained_tokens` what it trains on, without padding."""

    class Counting(kind):
        trained_tokens = 0

        def training_step(self, model, inputs, *arguments, **keywords):
            # One mask in a batch of SFT and DPO; one for each side in ORPO's, whose prompt's own is a part of both
            masks = [inputs[it] for it in inputs if it.endswith("attention_mask") and not it.startswith("prompt")]
            self.trained_tokens += sum(int(mask.sum()) for mask in masks)
            return super().training_step(model, inputs, *arguments, **keywords)

    return Counting


def train_and_measure(trainer, ruler, track: Track, measure_peak, times: int = 4) -> None:
    """Train, and measure at equal distances, the last time after the last step; a second stage continues the track.

    The trainer is of a class of `counting`, with `max_steps` set; `measure_peak` is that of `utils.train`.
    """
    from transformers import TrainerCallback

    stops = {round(trainer.args.max_steps * number / times) for number in range(1, times + 1)}
    before = track.tokens

    class Measures(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in stops:
                began = time.perf_counter()
                track.points.append((before + trainer.trained_tokens, ruler(trainer.model)))
                track.seconds -= time.perf_counter() - began

    callback = Measures()
    trainer.add_callback(callback)
    weights_gb, began = trainer.model.get_memory_footprint() / 1e9, time.perf_counter()
    with measure_peak() as peak:
        trainer.train()
    track.seconds += time.perf_counter() - began
    track.peak_gb = max(track.peak_gb, weights_gb + peak.gb)
    trainer.remove_callback(callback)


def own_figures(trainer) -> dict[str, float]:
    """Return what a trainer itself says of its held-out pairs, without the table that it shows in a notebook."""
    from IPython.utils.capture import capture_output

    with capture_output():
        return trainer.evaluate()


def copy_adapter(model) -> dict:
    """Copy the weights of a model's trained adapter, as fp32: name -> tensor."""
    return {name: weight.detach().float().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def restore_adapter(model, weights: dict) -> None:
    """Give a model's trained adapter the weights of `copy_adapter`, in fp32.

    With a 4-bit base, TRL's SFT and DPO trainers round an adapter to bf16 when they are built, and its ORPO trainer
    does not: the methods would not start alike. Also, the loss scaling of fp16 refuses gradients in bf16.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if other := sorted(trained.keys() ^ weights.keys()):
        raise ValueError(f"{len(other)} weights are trained or kept, but not both, such as {other[0]}.")
    for name, weight in trained.items():
        weight.data = weights[name].to(weight.device).clone()


def check_reference(model, ruler, expected, most: float = 0.02) -> float:
    """Score a DPO model's frozen adapter `ref`, and return the largest difference from `expected`, in nats a token."""
    model.set_adapter("ref")
    table = ruler(model)
    model.set_adapter("default")
    off = max(float((table[side] - expected[side]).abs().max()) for side in SIDES)
    assert off < most, f"the reference is off by {off:.3f} nats a token: it is not the model that DPO started from"
    return off


def account_rows(results: dict[str, dict], pairs: int) -> list[dict[str, str]]:
    """List what each method reached on `pairs` held-out pairs, and what it cost.

    `results` is method -> `Track.as_dict()` with `steps`, `adapters` and `reference_tokens`, which notebook 08 adds.
    """
    rows = []
    for name, result in results.items():
        last = result["points"][-1]
        low, high = wilson(last["accuracy"], pairs)
        row = {"method": name, "accuracy (95 %)": f"{last['accuracy']:.2f} ({low:.2f} to {high:.2f})"}
        row |= {key: f"{last[key]:.3f}" for key in ("margin", *SIDES)}
        row |= {"steps": " + ".join(map(str, result["steps"])), "tokens trained": f"{result['tokens']:,}"}
        row |= {"by the reference": f"{result['reference_tokens']:,}", "seconds": f"{result['seconds']:.1f}"}
        rows.append(row | {"peak GB": f"{result['peak_gb']:.3f}", "adapters": str(result["adapters"])})
    return rows
