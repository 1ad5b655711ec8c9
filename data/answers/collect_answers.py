"""Keeps what `make course` found before and after training, for images/: `python data/answers/collect_answers.py`.

Read are the answers that notebook 06 wrote, and the held-out curves that notebook 03 wrote, both in artifacts/course;
kept, in stand_in.json, are the greedy answers of base and tuned model to the course's five prompts, how many of them
ended by themselves, as notebook 03 counted, and the curves.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
COURSE = HERE.parents[1] / "artifacts" / "course"
CURVES = {"nll_loss": "eval_nll_loss", "margin": "eval_rewards/margins", "accuracy": "eval_rewards/accuracies"}


def collect(course: Path) -> dict:
    """Gather answers and curves of one run of the course.

    Args:
        course: folder that `make course` wrote.
    """

    def read(name: str):
        return json.loads((course / name).read_text())

    results, run, log = read("evaluation/results.json"), read("run/run.json"), read("run/trainer_state.json")
    metrics = {entry["name"][:2]: entry["metrics"] for entry in read("report.json")["notebooks"]}
    evaluations = [entry for entry in log["log_history"] if "eval_nll_loss" in entry]
    return {
        "answers": [
            {"prompt": row["prompt"], "base": row["base"], "tuned": row["adapter"]}
            for row in results["answers"]
            if row["decoding"] == "greedy"
        ],
        "ended": {"base": metrics["03"]["stopped_before"], "tuned": metrics["03"]["stopped_after"]},
        "held_out": [{"step": row["step"]} | {name: row[key] for name, key in CURVES.items()} for row in evaluations],
        "pairs": run["pairs"],
        "seconds": run["seconds"],
        "device": run["device"],
        "seed": run["seed"],
        "versions": run["versions"],
    }


if __name__ == "__main__":
    (HERE / "stand_in.json").write_text(json.dumps(collect(COURSE), indent=1) + "\n")
