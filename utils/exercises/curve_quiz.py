"""The exercises of notebook 04: "which run is this?" and "how many rows?"; their checks tell where to look.

Left out: the runs, which the notebook passes in.
"""

import random
from string import ascii_uppercase

from utils.curves.figures import METRIC_COLOURS, REFERENCES
from utils.curves.lines import cut_curve, draw_curve, far_curves, in_words
from utils.figures import COLOURS, new_figure
from utils.intervals import Z, rows_for

HINTS = {  # of the runs in data/runs that are asked for
    "healthy": "Healthy: the NLL falls by half, the margin ends near 0.3, accuracy at 1.",
    "rate x 0.01": "Far too small a rate: everything starts to move, and nothing arrives.",
    "rate x 100": "Far too large a rate ruins the loss, whatever accuracy says.",
    "beta 0.01": "The margin is in units of beta: at 0.01 it hardly leaves zero.",
    "beta 5": "The margin is in units of beta: at 5 it is in the tens.",
    "labels swapped": "Swapped labels show before the first step: see where accuracy starts.",
    "prompt as answer": "A prompt on both sides dilutes the margin, which starts next to zero.",
}
COLUMNS = (("nll_loss",), ("rewards/margins",), ("rewards/accuracies",), ("logps/chosen", "logps/rejected"))


def quiz(runs: dict, hints: dict, seed: int):
    """Draw runs under letters, in an order that only the seed knows.

    Args:
        runs: name -> `curves.Run`.
        hints: name -> sentence on where that run shows itself, such as "Look at the margin: ...". It is told to whoever
            gave that name to a wrong letter, so it may say how such a run looks.
        seed: of the order.

    Returns:
        (figure, alt text, function `check`, which takes a dictionary of letter -> name, or `None` before it is tried).
    """
    names = list(runs)
    random.Random(seed).shuffle(names)
    solution = dict(zip(ascii_uppercase, names, strict=False))
    letters = ", ".join(solution)

    def check(answer: dict | None) -> None:
        """Print that nothing was tried, or that all is right; else raise `AssertionError` with what to look at."""
        if answer is None:
            print(f'Not tried yet: give each of {letters} the name of a run, as in {{"A": "{next(iter(runs))}", ...}}.')
            return
        assert isinstance(answer, dict), f"The answer is a dictionary of letter and name, not {answer!r}."
        strange = [letter for letter in answer if letter not in solution]
        assert not strange, f"There is no run {strange[0]!r}: the letters are {letters}."
        unknown = [name for name in answer.values() if name not in list(runs)]
        assert not unknown, f"No run is called {unknown[0]!r}: the names are {', '.join(runs)}."
        wrong = {letter: name for letter, name in answer.items() if solution[letter] != name}
        told = [f"{letter} is not {name!r}. {hints[name]}" for letter, name in sorted(wrong.items())]
        assert not wrong, "\n".join([f"Not yet right: {', '.join(sorted(wrong))}.", *told])
        missing = [letter for letter in solution if letter not in answer]
        assert not missing, f"What is named is right; without a name so far: {', '.join(missing)}."
        print(f"All {len(solution)} runs are named rightly.")

    figure, words = _draw([runs[name] for name in names])
    alt = "; ".join(f"{letter}: {', '.join(said)}" for letter, said in zip(solution, words, strict=True))
    return figure, f"Curves of runs without their names, first to last evaluation. {alt}.", check


def check_rows(answer: int | None, half_width: float, share: float) -> None:
    """Check how many rows make an accuracy known within plus or minus `half_width`, to 2 % of that number.

    Args:
        answer: number of rows, or `None` before it is tried.
        half_width: of the 95 % interval.
        share: about what accuracy.

    Raises:
        AssertionError: saying how well so many rows would know it.
    """
    if answer is None:
        print("Not tried yet: give a number of rows.")
        return
    number = isinstance(answer, int | float) and not isinstance(answer, bool) and answer > 0
    assert number, f"The answer is a number of rows above 0, not {answer!r}."
    known = Z * (share * (1 - share) / answer) ** 0.5
    told = f"{answer:g} rows know it within {100 * known:.1f} points, and {100 * half_width:g} are asked for"
    assert abs(answer / rows_for(half_width, share) - 1) <= 0.02, (
        f"{told}. Four times the rows halve the interval; p is {share:g} here, not one half."
    )
    print(f"Right: {told}.")


def _draw(runs) -> tuple:
    """Draw one row of axes for each run; a column has one scale, but for runs that would flatten the others."""
    figure, axes = new_figure(len(COLUMNS), len(runs), width=2.45, height=1.55)
    axes, words = axes.reshape(len(runs), -1), [[] for _ in runs]
    for column, metrics in zip(axes.T, COLUMNS, strict=True):
        curves, far = [], set()
        for metric in metrics:
            curves.append([cut_curve(run, metric) for run in runs])
            far |= far_curves(curves[-1], metric)
            for axis, curve, said in zip(column, curves[-1], words, strict=True):
                draw_curve(axis, curve, color=COLOURS[METRIC_COLOURS.get(metric, "neutral")], markersize=4)
                said.append(f"{metric} {in_words(curve)}" + (", not finite later" if curve.lost else ""))
        seen = [any(len(line[place].mean) for line in curves) for place in range(len(runs))]
        near = [axis.get_ylim() for place, axis in enumerate(column) if seen[place] and place not in far]
        for place, axis in enumerate(column):
            axis.tick_params(labelsize=7)
            if metrics[0] in REFERENCES:
                axis.axhline(REFERENCES[metrics[0]], color="black", linestyle="--", linewidth=0.8, zorder=1)
            if place in far:
                axis.set_title("own scale", loc="right", fontsize=7)
            elif near:
                axis.set_ylim(min(low for low, _ in near), max(high for _, high in near))
        column[0].set_title(
            " and ".join(metrics).replace(" and logps/", ", "), fontsize=8, fontweight="bold", loc="left"
        )
        column[-1].set_xlabel("step", fontsize=8)
    for letter, axis in zip(ascii_uppercase, axes[:, 0], strict=False):
        axis.set_ylabel(letter, fontsize=13, fontweight="bold", rotation=0, labelpad=12, va="center")
    lines = [line for line in axes[0, -1].lines if line.get_linestyle() == "-"]
    figure.legend(lines, ["chosen", "rejected"], loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    return figure, words
