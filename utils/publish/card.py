"""Writes the model card from what a run, its merge and its evaluation recorded, on the template `card.md`.

Results go into the card's text, and as `model-index` into its front matter, which the Hub reads.
"""

import json
from pathlib import Path

from utils import hub
from utils.curves import figures as curve_figures
from utils.curves import run as curves

CURVES = "curves.png"  # next to the card, if the run left its history


def write_card(folder, repo_id: str, run: dict, parity: dict | None = None, results: dict | None = None) -> None:
    """Write `README.md` into the folder of a model, with its curves if they are there; see `model_card`."""
    has_curves = (Path(folder) / CURVES).exists()
    (Path(folder) / "README.md").write_text(model_card(repo_id, run, parity, results, has_curves))


def model_card(
    repo_id: str, run: dict, parity: dict | None = None, results: dict | None = None, has_curves: bool = False
) -> str:
    """Return the card of a merged model, or of an adapter if `parity` is `None`, in Markdown with YAML front matter.

    `run` is `run.json` of notebook 03, `parity` of `compare_predictions`, and `results` is `results.json` of 06.
    """
    from huggingface_hub import ModelCard, ModelCardData

    recipe, commits = run["recipe"], run["revisions"]
    base, mixed = recipe["base_model"], (run.get("mix") or {}).get("sources") or {}
    llama = hub.llama_licence(base, run.get("licence"))
    stated = llama or run.get("licence") or "not stated"
    name, model = repo_id.split("/")[-1], "merged" if parity else "adapter"
    evaluated = eval_results(run, results, model) if results else []
    datasets = [recipe["dataset"]] if commits["dataset"] else []
    datasets += [entry["repository"] for entry in mixed.values() if entry.get("revision") and entry["train"]]
    data = ModelCardData(
        model_name=name if evaluated else None,
        eval_results=evaluated or None,
        base_model=base if commits["base_model"] else None,  # a folder's path is nobody else's business
        datasets=datasets or None,
        library_name="transformers" if parity else "peft",
        license=stated if commits["base_model"] and stated != "not stated" else None,
        pipeline_tag="text-generation",
        tags=["orpo", "trl"],
    )
    values = {
        "name": name,
        "repo_id": repo_id,
        "run": run,
        "parity": parity,
        "llama": llama,
        "licence": stated,
        "toxic": _toxic(run, mixed),
        "results": results,
        "model": model,
        "curves": CURVES if has_curves else None,
        "base": base if commits["base_model"] else Path(base).name,
        "data": recipe["dataset"] if commits["dataset"] else Path(recipe["dataset"]).name,
    }
    return str(ModelCard.from_template(data, str(Path(__file__).with_name("card.md")), **values))


def draw_curves(run_folder, folder) -> None:
    """Draw a run's curves into `curves.png`, if it left its history: a published adapter has none."""
    import matplotlib.pyplot as plt

    log = Path(run_folder) / "trainer_state.json"
    if log.exists():
        figure, _ = curve_figures.plot_history(curves.read_history(json.loads(log.read_text())["log_history"]))
        figure.savefig(Path(folder) / CURVES, dpi=100)
        plt.close(figure)


def eval_results(run: dict, results: dict, model: str) -> list:
    """List accuracy and margin on the run's own held-out pairs, and the benchmarks that were run whole.

    `model` is "adapter" or "merged"; the form is that of `model-index`.
    """
    from huggingface_hub import EvalResult

    task, found = {"task_type": "text-generation"}, []
    data, revision = run["recipe"]["dataset"], run["revisions"]["dataset"]
    task["dataset_name"], task["dataset_type"] = "held-out preference pairs", data if revision else Path(data).name
    for entry in results["preference"]:
        if entry["model"] == model and entry["source"] == "all" and not results.get("pairs"):
            for kind in ("accuracy", "margin"):
                measured = {"metric_type": kind, "metric_value": entry[kind], "metric_name": f"preference {kind}"}
                found.append(EvalResult(**task, **measured, dataset_revision=revision))
    for entry in results["benchmarks"]:
        if entry["model"] == model and not entry["limit"]:  # a part of a benchmark is no score on it
            task["dataset_name"] = task["dataset_type"] = entry["task"]
            measured = {"metric_type": entry["metric"], "metric_value": entry["value"]}
            measured["source_name"] = "lm-evaluation-harness"
            measured["source_url"] = "https://github.com/EleutherAI/lm-evaluation-harness"
            found.append(EvalResult(**task, **measured))
    return found


def _toxic(run: dict, mixed: dict) -> list[str]:
    """Name the sources of the training pairs that reward what a model should refuse, with their pairs."""
    counts = run.get("sources") or {name: entry.get("train", 0) for name, entry in mixed.items()}
    return [
        f"{mixed.get(source, {}).get('repository', source)} ({count:,} pairs)"
        for source, count in counts.items()
        if count and "toxic" in source.lower()
    ]
