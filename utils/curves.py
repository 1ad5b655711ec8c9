"""A run's history from `trainer_state.json` as one data frame, drawn live while it trains and whole when it is done.

Left out so far: W&B as a source, and any judgement of what the curves mean.
"""

import json
import time
from pathlib import Path

TITLES = {
    "loss": "Loss (nats)",
    "nll_loss": "NLL of prompt and chosen (nats)",
    "rewards/margins": "Margin (beta x nats)",
    "rewards/accuracies": "Accuracy",
}


def read_history(run):
    """Read a run's history.

    Args:
        run: folder with a `trainer_state.json`, or a trainer's `log_history` list.

    Returns:
        Data frame with columns `step`, `epoch`, `split` ("train" or "eval"), `metric`, `value`; metrics carry the
        trainer's own names without the `eval_` prefix.
    """
    import pandas as pd

    entries = (
        run if isinstance(run, list) else json.loads((Path(run) / "trainer_state.json").read_text())["log_history"]
    )
    rows = []
    for entry in entries:
        for key, value in entry.items():
            if key in ("step", "epoch") or not isinstance(value, int | float) or key.startswith(("train_", "total_")):
                continue
            split, metric = ("eval", key[5:]) if key.startswith("eval_") else ("train", key)
            rows.append((entry["step"], entry.get("epoch"), split, metric, value))
    return pd.DataFrame(rows, columns=["step", "epoch", "split", "metric", "value"])


def plot_history(history, metrics=tuple(TITLES), title: str = ""):
    """Draw metrics side by side, train as a line and eval as points, and return the figure.

    Args:
        history: data frame of `read_history`.
        metrics: names of metrics, one panel each.
        title: above all panels.
    """
    from utils.figures import COLOURS, new_figure

    figure, axes = new_figure(columns=len(metrics), width=3.6)
    for axis, metric in zip(axes, metrics, strict=True):
        for split, style in (
            ("train", {"color": COLOURS["neutral"], "linewidth": 1.2}),
            ("eval", {"color": COLOURS["chosen"], "marker": "o"}),
        ):
            part = history[(history.metric == metric) & (history.split == split)]
            axis.plot(part.step, part.value, label=split, **style)
        axis.set(title=TITLES.get(metric, metric), xlabel="step")
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    return figure


def live_curves(seconds: float = 10.0):
    """Make a trainer callback that redraws margin and accuracy in place while the model trains.

    Args:
        seconds: least time between two drawings; a drawing costs about a fifth of a second.
    """
    from IPython.display import display
    from transformers import TrainerCallback

    from utils.figures import as_image

    class LiveCurves(TrainerCallback):
        handle, drawn = None, 0.0

        def on_log(self, args, state, control, **kwargs):
            if time.monotonic() - self.drawn >= seconds:
                self.draw(state)

        def on_train_end(self, args, state, control, **kwargs):
            self.draw(state)

        def draw(self, state):
            history = read_history(state.log_history)
            title = f"step {state.global_step} of {state.max_steps}"
            figure = plot_history(history, ("nll_loss", "rewards/margins", "rewards/accuracies"), title)
            alt = f"Loss, margin and accuracy of training and evaluation up to {title}"
            if self.handle is None:
                self.handle = display(display_id=True)
            image = as_image(figure, alt)
            if self.handle is not None:  # there is none outside a notebook
                self.handle.update(image)
            self.drawn = time.monotonic()

    return LiveCurves()
