"""Runs the series headless: practice hub, test models under the real names, every notebook in order, one summary.

`python -m utils.practice.course [--only 05]`. The notebooks run as they are; what is small about the run are these
parameters and the environment that points the real clients at the practice hub. It finds a new notebook in
`notebooks/`.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "artifacts" / "course"
TOKEN = "practice-write"
NEEDS = {"03": ["02"], "04": ["03"], "05": ["03"], "06": ["05"], "07": ["05"]}
# A base of one million weights learns at a hundred times the rate of one of eight billion.
PARAMETERS = {
    "02": {"TEST_SHARE": 0.15},  # of some 670 pairs, because 03 evaluates on 64
    "03": {"NUM_PAIRS": 320, "NUM_EVAL_PAIRS": 64, "LEARNING_RATE": 2e-3, "MORE": {"max_new_tokens": 40}},
    # small shards, so that there are several
    "05": {"HUB_REPO": "learner/Llama-3-8B-ORPO", "MAX_NEW_TOKENS": 40, "MORE": {"max_shard_size": "1MB"}},
    "06": {"TASKS": ["TruthfulQA"], "LIMIT": 5, "MAX_NEW_TOKENS": 40, "PUSH_TO_HUB": True},
    "07": {"SPACE_REPO": "learner/Llama-3-8B-ORPO-chat", "MAX_NEW_TOKENS": 40},
    "08": dict.fromkeys(("SFT_LEARNING_RATE", "DPO_LEARNING_RATE", "LEARNING_RATE"), 2e-3)
    | {"NUM_PAIRS": 96, "NUM_EVAL_PAIRS": 40, "MORE": {"warmup_steps": 2}},
    "09": {"NUM_PAIRS": 8, "REPEATS": 1, "MAX_LENGTH": 512},  # one optimizer step of short pairs shows it all
}
ARTEFACTS = {"01": "orpo", "02": "mix", "03": "run", "05": "merged", "06": "evaluation", "07": "space"}
ARTEFACTS |= {"08": "comparison", "09": "speed"}


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised; the message holds its source and error."""


def practice_environment(hub_url: str, home: Path) -> dict[str, str]:
    """Return variables with which the real clients talk to a practice hub, log offline and keep their caches apart."""
    return {
        "HF_ENDPOINT": hub_url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",  # read when the client is imported
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets would tell the real Hub of every load
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # nobody watches, and each map would leave a bar
        "WANDB_MODE": "offline",
        "NO_PROXY": "127.0.0.1,localhost",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",  # small models wait more than they compute, and a waiting thread would spin
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


def run_notebook(path: Path, output: Path, parameters: dict, environment: dict[str, str]) -> dict:
    """Execute one notebook in a kernel of its own, and return the figures that it recorded.

    The executed copy goes to `output`, also if a cell fails; then `NotebookFailed` is raised. A parameter that the
    notebook does not have raises `NameError`: papermill would only warn, and run the default.
    """
    import nbformat
    import papermill
    from traitlets.config import Config

    from utils.environment import METRICS_TYPE

    known = papermill.inspect_notebook(str(path))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise NameError(f"{path.name} has no parameter {', '.join(unknown)}. It has: {', '.join(known)}.")
    sockets = tempfile.TemporaryDirectory(prefix="kernel-")  # of its own: two kernels may run at once
    over_ipc = Config({"AsyncKernelManager": {"transport": "ipc", "ip": f"{sockets.name}/k"}})  # TCP warns of listeners
    options = {"cwd": str(ROOT), "kernel_name": "python3", "progress_bar": {"desc": path.stem}, "config": over_ipc}
    before = dict(os.environ)
    os.environ.update(environment)  # the kernel inherits it
    try:
        papermill.execute_notebook(str(path), str(output), parameters, **options)
    except papermill.PapermillExecutionError as error:
        where = f"{path.name} failed in this cell:\n\n{error.source}"
        raise NotebookFailed(f"{where}\n\n{error.ename}: {error.evalue}") from error
    finally:
        sockets.cleanup()
        os.environ.clear()
        os.environ.update(before)
        if output.exists():
            notebook = nbformat.read(output, as_version=4)
            remove_progress_bars(notebook)
            nbformat.write(notebook, output)
    metrics = {}
    for cell in notebook.cells:
        for result in cell.get("outputs", []):
            metrics |= result.get("data", {}).get(METRICS_TYPE, {})
    return metrics


def remove_progress_bars(notebook) -> None:
    """Take finished progress bars, which a page shows at 0 %, and their widgets out of an executed notebook."""
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    drawn = widgets.get("state", {})

    def parts(model_id: str) -> set[str]:
        found = {model_id}
        for part in re.findall(r"IPY_MODEL_(\w+)", json.dumps(drawn.get(model_id, {}).get("state", {}))):
            found |= parts(part)
        return found

    def is_bar(output) -> bool:
        if output.output_type == "stream" and output.name == "stderr":
            left = re.sub(r"\r[^\r\n]*\d\s*%?\|[^\r\n]*|\r[^\r\n]*\[\d\d:\d\d, [^\r\n]*", "", output.text)
            return not left.strip()
        view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
        if not view:
            return False
        inside = parts(view["model_id"])
        if not any(drawn.get(part, {}).get("model_name") == "FloatProgressModel" for part in inside):
            return False
        for part in inside:
            drawn.pop(part, None)
        return True

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("data") != {} and not is_bar(output)]


def select(only: str | None = None) -> list[Path]:
    """List the notebooks to run, in order: all, or one and what it needs."""
    found = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    if only is None:
        return list(found.values())
    if only not in found:
        raise ValueError(f"There is no notebook {only!r}. There are: {', '.join(found)}.")
    wanted = [only]
    for number in wanted:  # which grows meanwhile
        wanted += NEEDS.get(number, [])
    return [path for number, path in found.items() if number in wanted]


def run_course(only: str | None = None, output: Path | None = None) -> dict:
    """Run notebooks on a practice hub of their own until one fails; write `report.json` next to the executed copies.

    The output folder, `artifacts/course` if none is given, is emptied first. Returns `{"notebooks": [{"name", "ok",
    "seconds", "metrics", "artefact"}], "versions", "machine"}`; one that failed has its `error` too.
    """
    from utils import environment
    from utils.practice import stand_ins
    from utils.practice.hub import PracticeHub

    environment.quiet_known_warnings()
    output = output or OUTPUT
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    device = environment.find_device()
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "device": device.name}
    machine["memory_gb"] = round(device.memory_gb, 1)
    report = {"notebooks": [], "versions": environment.versions(), "machine": machine}
    with PracticeHub(output / "hub") as hub:
        print(f"Practice hub at {hub.url}: test models under the real names, nothing leaves this machine.")
        stand_ins.publish(hub)
        settings = practice_environment(hub.url, output / "home")
        for path in select(only):
            number, started = path.name[:2], time.monotonic()
            entry = {"name": path.stem, "ok": True, "metrics": {}}
            try:
                parameters = {"ARTIFACTS": str(output)} | PARAMETERS.get(number, {})
                entry["metrics"] = run_notebook(path, output / path.name, parameters, settings)
            except NotebookFailed as error:
                entry |= {"ok": False, "error": str(error)}
            entry["seconds"] = round(time.monotonic() - started, 1)
            entry["artefact"] = str(output / ARTEFACTS.get(number, path.name))
            report["notebooks"].append(entry)
            (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
            if not entry["ok"]:
                break
    return report


def summary(report: dict) -> str:
    """Return a report as a table of text: notebook, seconds, key figures, where the artefact is."""
    lines = [f"{'notebook':<28} {'':<4} {'seconds':>7}  key figures; artefact"]
    for entry in report["notebooks"]:
        figures = []
        for key, value in entry["metrics"].items():
            figures.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
        ended = "ok" if entry["ok"] else "FAIL"
        lines.append(f"{entry['name']:<28} {ended:<4} {entry['seconds']:>7.1f}  {', '.join(figures)}")
        lines.append(f"{'':<42} {os.path.relpath(entry['artefact'])}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks of the course headless, on a practice hub.")
    parser.add_argument("--only", help="number of one notebook; what it needs runs first")
    report = run_course(parser.parse_args().only)
    print("\n" + summary(report))
    failed = [entry["error"] for entry in report["notebooks"] if not entry["ok"]]
    print(*failed, sep="\n", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
