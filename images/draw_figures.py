"""Draws the figures of README.md from what the course computed: `python images/draw_figures.py`.

00_memory_budget.svg from Llama 3 8B's published shape, 03_train_curves.svg from the history in data/runs/.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main(folder: Path = ROOT / "images") -> None:
    """Draw both figures into a folder."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "orpo-course"  # the same figure gives the same file
    from transformers import AutoConfig

    from utils import bases, curves, memory, profiles, recipes

    llama3 = bases.skeleton(AutoConfig.for_model("llama", **memory.LLAMA_3_8B))
    gpus = {name: profile for name, profile in profiles.PROFILES.items() if profile.gpus}
    budget, _ = memory.plot_budgets(memory.budgets(llama3, recipes.RECIPES["course-llama3"], gpus), gpus)
    history = curves.read_history(ROOT / "data" / "runs" / "stand_in")
    training = curves.plot_history(history, ("nll_loss", "rewards/margins", "rewards/accuracies"))
    for name, figure in {"00_memory_budget": budget, "03_train_curves": training}.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
