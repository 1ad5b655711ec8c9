"""Draws the figures of the course from what it computed: `python images/draw_figures.py [name ...]`.

Here are those that a notebook draws too, with the same function. What is drawn for a page alone has a script of its
own beside this one: draw_pipeline.py, draw_stages.py. Everything is read from data/ and
benchmarks/; CONTRIBUTING.md says how that is made. Left out: any number that is not read or counted.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]


def memory_budget():
    """Draw the predicted memory of Llama 3 8B by GPU, from its published shape."""
    from types import SimpleNamespace

    from transformers import AutoConfig

    from utils.train import base as bases
    from utils.train import memory, profiles

    llama3 = bases.skeleton(AutoConfig.for_model("llama", **memory.LLAMA_3_8B))
    gpus = {name: profile for name, profile in profiles.PROFILES.items() if profile.gpus}
    run = SimpleNamespace(effective_batch=8, max_length=1024, lora_r=16, target_modules="all-linear")
    return memory.plot_budgets(memory.budgets(llama3, run, gpus), gpus)


def loss_surface():
    """Draw ORPO's odds term over the log-probabilities of both answers."""
    from utils.widgets import loss as loss_explorer

    figure, alt = loss_explorer.plot_loss_surface()
    figure.axes[0].collections[0].set_rasterized(True)  # its outlines would take 200 KB
    return figure, alt


def mechanism():
    """Draw what notebook 01 measured: SFT, and ORPO at several values of lambda."""
    from utils import orpo

    measured = read("data/mechanism/stand_in.json")
    return orpo.plot_log_probabilities(measured["steps"], measured["runs"])


def mix_waterfall():
    """Draw what became of the rows of the stand-in sources, from the counts of notebook 02."""
    import pandas as pd

    from utils import data

    sources = read("data/mixes/stand_in.json")["sources"]
    fates = {name: entry["dropped"] | {None: entry["train"] + entry["test"]} for name, entry in sources.items()}
    rows = [(name, fate) for name, counts in fates.items() for fate, count in counts.items() for _ in range(count)]
    return data.plot_waterfall(pd.DataFrame(rows, columns=["source", "reason"]))


def sick_run():
    """Draw the healthy run and one at a hundred times the rate: only the loss tells which one is ruined."""
    from utils.curves import figures as curve_figures
    from utils.figures import COLOURS, new_figure

    healthy, sick = runs({"healthy": "healthy", "rate_x_100": "learning rate x 100"})
    ends = {metric: sick.ends(metric) for metric in ("rewards/accuracies", "rewards/margins", "loss")}
    titles = {
        "rewards/accuracies": f"Accuracy ends at {ends['rewards/accuracies'][1]:.2f} ...",
        "rewards/margins": f"... the margin grows to {ends['rewards/margins'][1]:.2f} ...",
        "loss": f"... and the loss is {ends['loss'][1] / ends['loss'][0]:.0f} times its start",
    }
    figure, axes = new_figure(columns=3, width=3.2, height=2.7)
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        for run, colour, marker in ((healthy, "chosen", "o"), (sick, "rejected", "D")):
            curve, style = curve_figures.take_curve(run, metric), {"color": COLOURS[colour], "marker": marker}
            curve_figures.draw_curve(axis, curve, alone=False, band=False, label=run.name, **style)
        axis.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylabel({"rewards/margins": "beta x nats", "loss": "nats"}.get(metric, "share of pairs"), fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    axes[0].legend(loc="lower right", fontsize=8)
    told = "; ".join(f"{metric} {start:.2f} to {end:.2f}" for metric, (start, end) in ends.items())
    return figure, f"A healthy run, and one at a hundred times its learning rate, of which {told}."


def four_methods():
    """Draw what notebook 08 measured of its four methods."""
    from utils import evaluate

    compared = read("data/comparisons/stand_in.json")
    return evaluate.plot_tracks(compared["methods"], compared["pairs"]["test"])


def packed_row():
    """Draw the first two real pairs' lengths as padded rows and as one packed row."""
    from utils.train import cost_figures, step_costs

    lengths = step_costs.read_lengths(ROOT / "benchmarks" / "pair_lengths.json", 2)
    return cost_figures.plot_batch(step_costs.made_up_rows(lengths, 4096))


def read(name: str):
    """Read a JSON file of the course."""
    return json.loads((ROOT / name).read_text())


def runs(names: dict[str, str]) -> list:
    """Read runs of data/runs/: folder -> the name it gets."""
    from utils import curves

    return [curves.read_run(str(ROOT / "data" / "runs" / folder), None, name) for folder, name in names.items()]


def figures_by_name() -> dict:
    """Return name -> function that draws it and returns (figure, alt text)."""
    import draw_pipeline
    import draw_stages

    return {
        "00_memory_budget": memory_budget,
        "00_pipeline": draw_pipeline.draw,
        "01_loss_surface": loss_surface,
        "01_mechanism": mechanism,
        "02_mix_waterfall": mix_waterfall,
        "04_sick_run": sick_run,
        "08_four_methods": four_methods,
        "08_stages": draw_stages.draw,
        "09_packed_row": packed_row,
    }


def main(folder: Path = HERE, names: list[str] | None = None) -> None:
    """Draw all figures, or those that are named, into a folder.

    Raises:
        ValueError: naming the figures that there are, for a name that is none of them.
    """
    import matplotlib

    matplotlib.use("agg")
    from save_svg import save_svg

    known = figures_by_name()
    if unknown := sorted(set(names or []) - set(known)):
        raise ValueError(f"There is no figure {', '.join(unknown)}. There are: {', '.join(known)}.")
    for name in names or known:
        figure, alt = known[name]()
        save_svg(figure, folder / f"{name}.svg", alt)


if __name__ == "__main__":
    main(names=sys.argv[1:])
