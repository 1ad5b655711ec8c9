"""Writes the model card from what a run, its merge and its evaluation recorded, on the template `card.md`.

Results go into the card's text, and as `model-index` into its front matter, which the Hub reads.
"""

import json
from pathlib import Path

from utils.curves import figures as curve_figures
from utils.curves import run as curves
from utils.train import base as bases

CURVES = "curves.png"  # next to the card, if the run left its history


def model_card(
    repo_id: str, run: dict, parity: dict | None = None, results: dict | None = None, has_curves: bool = False
) -> str:
    """Write the card of a merged model, or of an adapter if `parity` is `None`, in Markdown with YAML front matter.

    Args:
        run: contents of `run.json`, as notebook 03 writes it.
        parity: of `utils.publish.merge.compare_predictions`.
        results: contents of `results.json`, as notebook 06 writes it; `None` if the model was not evaluated.
        has_curves: whether `curves.png` is next to the card, see `draw_curves`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base, public = run["recipe"]["base_model"], run["revisions"]["base_model"] is not None
    llama = bases.llama_licence(base, run.get("licence"))
    stated = llama or run.get("licence") or "not stated"
    name, model = repo_id.split("/")[-1], "merged" if parity else "adapter"
    evaluated = eval_results(run, results, model)
    data = ModelCardData(
        model_name=name if evaluated else None,
        eval_results=evaluated or None,
        base_model=base if public else None,  # a folder's path is nobody else's business
        datasets=_datasets(run) or None,
        library_name="transformers" if parity else "peft",
        license=stated if public and stated != "not stated" else None,
        pipeline_tag="text-generation",
        tags=["orpo", "trl"],
    )
    sources = {
        part: run["recipe"][key] if run["revisions"][key] else Path(run["recipe"][key]).name
        for part, key in (("base", "base_model"), ("data", "dataset"))
    }
    values = {
        "name": name,
        "repo_id": repo_id,
        "run": run,
        "parity": parity,
        "llama": llama,
        "licence": stated,
        "toxic": _toxic(run),
        "results": results,
        "model": model,
        "curves": CURVES if has_curves else None,
    }
    return str(ModelCard.from_template(data, str(Path(__file__).with_name("card.md")), **values, **sources))


def draw_curves(run_folder, folder) -> bool:
    """Draw a run's curves into `curves.png`, and say whether it could be done: a published adapter has none."""
    import matplotlib.pyplot as plt

    log = Path(run_folder) / "trainer_state.json"
    if log.exists():
        figure, _ = curve_figures.plot_history(curves.read_history(json.loads(log.read_text())["log_history"]))
        figure.savefig(Path(folder) / CURVES, dpi=100)
        plt.close(figure)
    return log.exists()


def eval_results(run: dict, results: dict | None, model: str) -> list:
    """List held-out accuracy and margin, and the benchmarks that were run whole, in the form of `model-index`.

    `model` is "adapter" or "merged".
    """
    from huggingface_hub import EvalResult

    if not results:
        return []
    task = {"task_type": "text-generation"}
    data, revision = run["recipe"]["dataset"], run["revisions"]["dataset"]
    held_out = {
        "dataset_name": "held-out preference pairs",
        "dataset_type": data if revision else Path(data).name,
        "dataset_revision": revision,
    }
    found = [
        EvalResult(metric_type=kind, metric_value=entry[kind], metric_name=f"preference {kind}", **task, **held_out)
        for entry in results["preference"]
        if entry["model"] == model and entry["source"] == "all" and not results.get("pairs")  # other pairs, no name
        for kind in ("accuracy", "margin")
    ]
    return found + [
        EvalResult(
            dataset_name=entry["task"],
            dataset_type=entry["task"],
            metric_type=entry["metric"],
            metric_value=entry["value"],
            source_name="lm-evaluation-harness",
            source_url="https://github.com/EleutherAI/lm-evaluation-harness",
            **task,
        )
        for entry in results["benchmarks"]
        if entry["model"] == model and not entry["limit"]  # a part of a benchmark is no score on it
    ]


def _datasets(run: dict) -> list[str]:
    """List the Hub data sets that a run was trained on: its own, or those that its mix is made of."""
    own = [run["recipe"]["dataset"]] if run["revisions"]["dataset"] else []
    mixed = ((run.get("mix") or {}).get("sources") or {}).values()
    return own + [entry["repository"] for entry in mixed if entry.get("revision") and entry["train"]]


def _toxic(run: dict) -> list[str]:
    """Name the sources of the training pairs that reward what a model should refuse, with their pairs."""
    mixed = (run.get("mix") or {}).get("sources") or {}
    counts = run.get("sources") or {name: entry.get("train", 0) for name, entry in mixed.items()}
    names = {source: mixed.get(source, {}).get("repository", source) for source in counts}
    return [
        f"{names[source]} ({count:,} pairs)" for source, count in counts.items() if count and "toxic" in source.lower()
    ]
