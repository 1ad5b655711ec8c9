"""The exercises of notebook 04: "which run is this?" and "how many rows?"; their checks tell where to look."""

import random
from string import ascii_uppercase

from utils.curves.figures import METRIC_COLOURS, REFERENCES, draw_curve, in_words, set_scale, take_curve
from utils.exercises.checks import close, exercise, number
from utils.figures import COLOURS, new_figure
from utils.intervals import rows_for

HINTS = {  # of the runs in data/runs that are asked for
    "healthy": "Healthy: the NLL falls by half, the margin ends near 0.3, accuracy at 1.",
    "rate x 0.01": "Far too small a rate: everything starts to move, but nothing arrives.",
    "rate x 100": "Far too large a rate ruins the loss, whatever accuracy says.",
    "beta 0.01": "The margin is in units of beta: at 0.01 it hardly leaves zero.",
    "beta 5": "The margin is in units of beta: at 5 it is in the tens.",
    "labels swapped": "Swapped labels show before the first step: see where accuracy starts.",
    "prompt as answer": "A prompt on both sides dilutes the margin, which starts next to zero.",
}
COLUMNS = (("nll_loss",), ("rewards/margins",), ("rewards/accuracies",), ("logps/chosen", "logps/rejected"))


def draw_quiz(runs: dict, seed: int):
    """Draw those runs that `HINTS` asks for under letters, in an order that only the seed knows.

    Returns the figure, its alt text, and `check`, which takes a dictionary of letter -> name.
    """
    names = list(HINTS)
    random.Random(seed).shuffle(names)
    solution = dict(zip(ascii_uppercase, names, strict=False))
    letters = ", ".join(solution)

    @exercise(f'each of {letters} the name of a run, as in {{"A": "healthy", ...}}')
    def check(answer: dict) -> str:
        assert isinstance(answer, dict), f"The answer is a dictionary of letter and name, not {answer!r}."
        strange = [letter for letter in answer if letter not in solution]
        assert not strange, f"There is no run {strange[0]!r}: the letters are {letters}."
        unknown = [name for name in answer.values() if name not in names]
        assert not unknown, f"No run is called {unknown[0]!r}: the names are {', '.join(HINTS)}."
        wrong = sorted((letter, name) for letter, name in answer.items() if solution[letter] != name)
        told = [f"{letter} is not {name!r}. {HINTS[name]}" for letter, name in wrong]
        assert not wrong, "\n".join(["Not yet right.", *told])
        missing = [letter for letter in solution if letter not in answer]
        assert not missing, f"What is named is right; without a name so far: {', '.join(missing)}."
        return f"All {len(solution)} runs are named rightly."

    figure, words = _draw([runs[name] for name in names])
    alt = "; ".join(f"{letter}: {', '.join(said)}" for letter, said in zip(solution, words, strict=True))
    return figure, f"Curves of runs without their names, first to last evaluation. {alt}.", check


@exercise("a number of rows")
def check_rows(answer, half_width: float, share: float) -> str:
    """Check how many rows make an accuracy of about `share` known within `half_width`, half of a 95 % interval."""
    number(answer, "The number of rows", least=1)
    known = 1.96 * (share * (1 - share) / answer) ** 0.5
    told = f"{answer:g} rows know it within {100 * known:.1f} points, and {100 * half_width:g} are asked for."
    why = f"{told} Four times the rows halve the interval; p is {share:g} here, not one half."
    close(answer, rows_for(half_width, share), "The number of rows", why=why)
    return f"Right: {told}"


def _draw(runs) -> tuple:
    """Draw one row of axes for each run; a column has one scale."""
    figure, axes = new_figure(len(COLUMNS), len(runs), width=2.45, height=1.55)
    axes, words = axes.reshape(len(runs), -1), [[] for _ in runs]
    for column, metrics in zip(axes.T, COLUMNS, strict=True):
        for metric in metrics:
            curves = [take_curve(run, metric) for run in runs]
            for axis, curve, said in zip(column, curves, words, strict=True):
                draw_curve(axis, curve, color=COLOURS[METRIC_COLOURS.get(metric, "neutral")], markersize=4)
                said.append(f"{metric} {in_words(curve)}")
        set_scale(column, curves, metrics[-1])
        limits = [axis.get_ylim() for axis in column]
        for axis in column:
            axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
            axis.tick_params(labelsize=7)
            if metrics[0] in REFERENCES:
                axis.axhline(REFERENCES[metrics[0]], color="black", linestyle="--", linewidth=0.8, zorder=1)
        column[0].set_title(
            " and ".join(metrics).replace(" and logps/", ", "), fontsize=8, fontweight="bold", loc="left"
        )
        column[-1].set_xlabel("step", fontsize=8)
    for letter, axis in zip(ascii_uppercase, axes[:, 0], strict=False):
        axis.set_ylabel(letter, fontsize=13, fontweight="bold", rotation=0, labelpad=12, va="center")
    lines = [line for line in axes[0, -1].lines if line.get_linestyle() == "-"]
    figure.legend(lines, ["chosen", "rejected"], loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    return figure, words
