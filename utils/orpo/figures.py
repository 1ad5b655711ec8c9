"""The figures of notebook 01, and the comparison of what it measures with what ORPO's paper says.

`runs` is name -> {"chosen": [...], "rejected": [...]}: mean log-probabilities of held-out answers in nats a token.
"""

from utils.figures import COLOURS, SEQUENCE, new_figure
from utils.orpo import math as orpo_math

STILL = 0.02  # nats a token: a smaller change counts as none
# What the paper, arXiv 2403.07691, says in sections 3, 7.2 and E.1: where, of which run, in words, and which change.
PAPER = [
    ("Figure 3, OPT-350M", "SFT", "chosen rises", "chosen", "rises"),
    ("Figure 3, OPT-350M", "SFT", "rejected rises too", "rejected", "rises"),
    ("Figure 7, OPT-350M", "ORPO 1.0", "chosen rises all the same", "chosen", "rises"),
    ("Figure 7, OPT-350M", "ORPO 1.0", "rejected falls", "rejected", "falls"),
    ("Appendix E, Mistral 7B", "ORPO 0.1", "chosen rises", "chosen", "rises"),
    ("Appendix E, Mistral 7B", "ORPO 0.1", "rejected does not fall", "rejected", "does not fall"),
    ("Appendix E, Mistral 7B", "ORPO 0.5", "chosen rises", "chosen", "rises"),
    ("Appendix E, Mistral 7B", "ORPO 0.5", "rejected falls", "rejected", "falls"),
    ("Appendix E, Mistral 7B", "ORPO 1.0", "chosen falls", "chosen", "falls"),
    ("Appendix E, Mistral 7B", "ORPO 1.0", "rejected falls", "rejected", "falls"),
    ("Appendix E, Mistral 7B", "ORPO 1.0", "the gap is widest", "gap", "widest"),
]


def paper_rows(runs: dict[str, dict]) -> list[dict[str, str]]:
    """Compare what was measured with what the paper says of these runs, as rows.

    Example:
        >>> rows = paper_rows({"SFT": {"chosen": [-0.8, -0.4], "rejected": [-0.7, -0.9]}})
        >>> [(row["it says"], row["here"], row["agrees"]) for row in rows]
        [('chosen rises', '-0.80 to -0.40', 'yes'), ('rejected rises too', '-0.70 to -0.90', 'no')]
    """
    gaps = {name: [c - r for c, r in zip(run["chosen"], run["rejected"], strict=True)] for name, run in runs.items()}
    rows = []
    for place, name, statement, curve, movement in PAPER:
        if name not in runs:
            continue
        values = gaps[name] if curve == "gap" else runs[name][curve]
        change = values[-1] - values[0]
        agrees = {
            "rises": change > STILL,
            "falls": change < -STILL,
            "does not fall": change > -STILL,
            "widest": all(values[-1] > gap[-1] for other, gap in gaps.items() if other != name),
        }[movement]
        here, answer = f"{values[0]:.2f} to {values[-1]:.2f}", "yes" if agrees else "no"
        rows.append({"paper": place, "run": name, "it says": statement, "here": here, "agrees": answer})
    return rows


def plot_log_probabilities(steps: list[int], runs: dict[str, dict]):
    """Draw both answers' log-probabilities over the steps, a panel for each run; return (figure, alt text)."""
    figure, axes = new_figure(columns=len(runs), width=max(2.4, 9.6 / len(runs)), height=3.0)
    values = [value for run in runs.values() for side in ("chosen", "rejected") for value in run[side]]
    room = 0.06 * (max(values) - min(values))
    told = []
    for axis, (name, run) in zip(axes, runs.items(), strict=True):
        for side, style in (("chosen", "o-"), ("rejected", "s--")):
            axis.plot(steps, run[side], style, markersize=4, color=COLOURS[side], label=side)
        axis.axhline(run["rejected"][0], color=COLOURS["neutral"], linestyle=":", linewidth=1.2, zorder=1)
        axis.set_ylim(min(values) - room, max(values) + room)
        axis.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlabel("optimizer step", fontsize=9)
        axis.tick_params(labelsize=8)
        ends = [f"{side} from {run[side][0]:.2f} to {run[side][-1]:.2f}" for side in ("chosen", "rejected")]
        told.append(f"{name}: {', '.join(ends)}")
    axes[0].set_ylabel("log-probability of held-out\nanswers (nats a token)", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    return figure, f"Held-out answers over optimizer steps, nats a token. {'. '.join(told)}."


def plot_pushes(rejected: float = 0.3, chosen: float = 0.6):
    """Draw how hard a ratio of odds and one of probabilities push on an answer, by its probability.

    In two panels the rejected answer keeps its probability, in the third the chosen one. Returns (figure, alt text).
    """
    import torch

    varied = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    panels = [
        ("on chosen, upwards", "P(chosen)", varied, torch.full_like(varied, rejected), 0),
        ("on rejected, downwards", "P(chosen)", varied, torch.full_like(varied, rejected), 1),
        ("on rejected, downwards", "P(rejected)", torch.full_like(varied, chosen), varied, 1),
    ]
    kinds = {"odds ratio": orpo_math.odds_ratio_push, "probability ratio": orpo_math.probability_ratio_push}
    figure, axes = new_figure(columns=3, width=3.2, height=3.0)
    told = []
    for axis, (title, label, likely, unlikely, side) in zip(axes, panels, strict=True):
        fixed = f"P(rejected) = {rejected:g}" if label == "P(chosen)" else f"P(chosen) = {chosen:g}"
        for colour, line, (name, push) in zip(SEQUENCE, ("-", "--"), kinds.items(), strict=False):
            values = push(likely.log(), unlikely.log())[side].abs()
            axis.plot(varied, values, line, color=colour, linewidth=2, label=name)
            told.append(f"{name} {title}, at {fixed}: {values[8]:.2f} at {label} 0.1, {values[88]:.2f} at 0.9")
        axis.set_title(f"push {title}\n({fixed})", loc="left", fontsize=9, fontweight="bold")
        axis.set_xlabel(label, fontsize=9)
        axis.set_ylim(0, 2)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("|gradient by log P|", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    return figure, f"Size of the gradient of two losses. {'; '.join(told)}."
