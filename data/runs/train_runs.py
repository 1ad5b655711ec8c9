"""Trains a healthy run, and those it is compared with, into this folder: `python data/runs/train_runs.py [name ...]`.

Each is notebook 03 on the small base, on the same practice hub as `make course`, with what its name says changed and
nothing else; about 1.5 min each on 2 CPU cores. Kept of each: `trainer_state.json`, without raw logits and with five
significant digits, and in `run.json` the parameters, the recipe, the number of pairs and the versions.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

PAIRS, EVAL_PAIRS = 800, 200
LEARNING_RATE = 2e-3  # of notebook 03 in `make course`
RUNS = {  # parameters of notebook 03 that differ; "data" is one of the files below
    "healthy": {},
    "rate x 0.01": {"LEARNING_RATE": LEARNING_RATE / 100},
    "rate x 100": {"LEARNING_RATE": LEARNING_RATE * 100},
    "beta 0.01": {"BETA": 0.01},
    "beta 5": {"BETA": 5.0},
    "labels swapped": {"data": "swapped"},
    "prompt as answer": {"data": "prompt_as_answer"},
    "16 pairs fifty times": {"NUM_PAIRS": 16, "NUM_EPOCHS": 50},
    "article": {"NUM_PAIRS": 990, "NUM_EVAL_PAIRS": 10, "LEARNING_RATE": LEARNING_RATE / 10},  # 8e-6 is 8e-5 / 10
}


def write_data(folder: Path) -> None:
    """Write the same pairs three times: as they are, with the labels swapped, and as the article rendered them."""
    from utils.practice.small_world import distinct_pairs

    def as_text(messages):
        return "\n".join(f"<|im_start|>{message['role']}\n{message['content']}" for message in messages)

    def rendered(pair, side):
        return [{"role": "assistant", "content": as_text(pair["prompt"] + pair[side])}]

    pairs = [{key: pair[key] for key in ("prompt", "chosen", "rejected")} for pair in distinct_pairs(1200, seed=5)]
    files = {
        "pairs": pairs,
        "swapped": [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs],
        "prompt_as_answer": [pair | {side: rendered(pair, side) for side in ("chosen", "rejected")} for pair in pairs],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def folder_of(name: str) -> Path:
    """Return where a run is kept."""
    return HERE / name.replace(" ", "_")


def train(name: str, folder: Path, environment: dict[str, str]) -> None:
    """Run notebook 03 with the parameters of one run, and keep its history."""
    from utils.practice.course import PARAMETERS, run_notebook

    parameters = {"NUM_PAIRS": PAIRS, "NUM_EVAL_PAIRS": EVAL_PAIRS, "LEARNING_RATE": LEARNING_RATE} | RUNS[name]
    data = parameters.pop("data", "pairs") + ".jsonl"
    output = folder / name.replace(" ", "-")
    output.mkdir()
    given = PARAMETERS["03"] | parameters | {"DATASET": str(folder / data), "ARTIFACTS": str(output)}
    run_notebook(ROOT / "notebooks" / "03_train_with_orpo.ipynb", output / "03.ipynb", given, environment)

    state = json.loads((output / "run" / "trainer_state.json").read_text())
    log = [
        {key: float(f"{value:.5g}") for key, value in entry.items() if "logits" not in key}
        for entry in state["log_history"]
    ]
    kept = {key: state[key] for key in ("epoch", "global_step", "max_steps", "num_train_epochs")}
    record = json.loads((output / "run" / "run.json").read_text())
    about = {key: record[key] for key in ("recipe", "pairs", "seed", "versions", "device")}
    about["recipe"] |= {"dataset": data}
    folder_of(name).mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(entry) for entry in log)
    text = json.dumps(kept)[:-1] + f', "log_history": [\n{lines}\n]}}\n'
    (folder_of(name) / "trainer_state.json").write_text(text)
    command = f"python data/runs/train_runs.py {name!r}"
    about = {"command": command, "parameters": parameters | {"DATASET": data}} | about
    (folder_of(name) / "run.json").write_text(json.dumps(about, indent=2) + "\n")


def main() -> None:
    """Train the runs that are named, or all."""
    from utils.practice import stand_ins
    from utils.practice.course import practice_environment
    from utils.practice.hub import PracticeHub

    with tempfile.TemporaryDirectory() as folder, PracticeHub(Path(folder) / "hub") as hub:
        stand_ins.publish(hub)
        write_data(Path(folder))
        for name in sys.argv[1:] or RUNS:
            train(name, Path(folder), practice_environment(hub.url, Path(folder) / "home"))


if __name__ == "__main__":
    main()
