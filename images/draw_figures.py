"""Draws the figures of README.md from what the course computed: `python images/draw_figures.py`.

00_memory_budget.svg from Llama 3 8B's published shape, 02_mix_waterfall.svg from the counts in data/mixes/,
03_train_curves.svg and 04_sick_run.svg from the runs in data/runs/, 08_four_methods.svg from what notebook 08 measured,
in data/comparisons/, and 09_packed_row.svg from the lengths of the first real pairs in benchmarks/pair_lengths.json.
After a change of the stand-ins, copy artifacts/course/mix/report.json into data/mixes/, and
artifacts/course/comparison/results.json into data/comparisons/, and run data/runs/train_runs.py first.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main(folder: Path = ROOT / "images") -> None:
    """Draw the figures into a folder."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "orpo-course"  # the same figure gives the same file
    import pandas as pd
    from transformers import AutoConfig

    from utils import (
        bases,
        comparison_figures,
        cost_figures,
        curve_figures,
        curves,
        memory,
        mix_figures,
        mixing,
        profiles,
        recipes,
        step_costs,
    )

    llama3 = bases.skeleton(AutoConfig.for_model("llama", **memory.LLAMA_3_8B))
    gpus = {name: profile for name, profile in profiles.PROFILES.items() if profile.gpus}
    budget, _ = memory.plot_budgets(memory.budgets(llama3, recipes.RECIPES["course-llama3"], gpus), gpus)
    sources = json.loads((ROOT / "data" / "mixes" / "stand_in.json").read_text())["sources"]
    fates = {name: entry["dropped"] | {None: entry["train"] + entry["test"]} for name, entry in sources.items()}
    rows = [(name, fate) for name, counts in fates.items() for fate, count in counts.items() for _ in range(count)]
    mix, _ = mix_figures.plot_waterfall(pd.DataFrame(rows, columns=["source", "reason"]), mixing.REASONS)
    names = {"healthy": "healthy", "rate_x_100": "a hundred times the rate"}
    runs = [curves.read_run(str(ROOT / "data" / "runs" / folder), None, name) for folder, name in names.items()]
    metrics = ("nll_loss", "rewards/margins", "rewards/accuracies")
    training = curve_figures.plot_history(runs[0].history, metrics)
    sick, _ = curve_figures.plot_runs(runs, ["accuracies", "margins", "loss"])
    lengths = step_costs.read_lengths(ROOT / "benchmarks" / "pair_lengths.json", 2)
    row, _ = cost_figures.plot_batch(step_costs.made_up_rows(lengths, 4096))
    compared = json.loads((ROOT / "data" / "comparisons" / "stand_in.json").read_text())
    methods, _ = comparison_figures.plot_tracks(compared["methods"], compared["pairs"]["test"])
    drawn = {"00_memory_budget": budget, "02_mix_waterfall": mix, "03_train_curves": training, "04_sick_run": sick}
    drawn |= {"08_four_methods": methods, "09_packed_row": row}
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
