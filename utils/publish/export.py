"""Takes a run elsewhere: its settings for Axolotl, LLaMA-Factory, AutoTrain, or TRL's own parser.

The templates in `data/exports` say in comments what their tool computes differently. Left out: the tools themselves,
which are not installed: tests know their fields from `data/tool_fields.json`.
"""

import json
import math
import textwrap
from pathlib import Path
from string import Template

from utils.data import render_pair
from utils.train.fit import WARNINGS

EXPORTS = Path(__file__).parents[2] / "data" / "exports"
TOOLS = ("axolotl", "llama-factory", "autotrain", "trl-cli")
COLUMNS = ("prompt", "chosen", "rejected")


def write_export(folder, tool: str, settings: dict, pairs, tokenizer, **options) -> list[Path]:
    """Write a tool's configuration and all that it reads into a folder, in which the tool is then started.

    `settings` are notebook 03's parameters, as in `recipes/`; `options` are those of `configure_tool`.
    """
    files = {f"{tool}.yaml": configure_tool(tool, settings, len(pairs["train"]), **options)}
    for split in ("train", "test"):
        rows = (json.dumps(render_pair(pair, tokenizer), ensure_ascii=False) for pair in pairs[split])
        files[f"pairs/{split}.jsonl"] = "".join(row + "\n" for row in rows)
    if tool == "llama-factory":
        about = {"ranking": True, "columns": {name: name for name in COLUMNS}}
        info = {split: {"file_name": f"{split}.jsonl"} | about for split in ("train", "test")}
        files["pairs/dataset_info.json"] = json.dumps(info, indent=2) + "\n"
    if tool == "trl-cli":
        files["train_orpo.py"] = (EXPORTS / "train_orpo.py").read_text(encoding="utf-8")
    (Path(folder) / "pairs").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (Path(folder) / name).write_text(content, encoding="utf-8")
    return [Path(folder) / name for name in files]


def configure_tool(
    tool: str, settings: dict, train_pairs: int, *, micro_batch: int = 1, revision=None, dtype: str = "bfloat16"
) -> str:
    """Write settings as a tool's YAML, with comments on what it computes differently from notebook 03.

    `revision` is the base's commit, `dtype` what the GPU computes in. Raises `ValueError` for what the tool cannot do.
    """
    import yaml

    more, epochs, dataset = settings["MORE"], settings["NUM_EPOCHS"], settings["DATASET"]
    modules, batch = more["target_modules"], more["effective_batch"]
    if batch % micro_batch:
        raise ValueError(f"Passes of {micro_batch} pairs do not add up to {batch}: change micro_batch.")
    if tool == "autotrain" and epochs != int(epochs):
        raise ValueError(f"AutoTrain counts whole epochs, and {epochs} is none: set NUM_EPOCHS to 1 or more.")
    steps = math.ceil(train_pairs / batch) * epochs
    values = {key.lower(): value for key, value in settings.items()} | more
    values |= {
        "name": f"{settings['BASE_MODEL']} on {dataset}",
        "revision": revision or "main",
        "too_long": "truncate" if more["truncate_answers"] else "drop",
        "modules_in_a_line": modules if isinstance(modules, str) else ",".join(modules),
        "micro_batch": micro_batch,
        "accumulation": batch // micro_batch,
        "dtype": dtype,
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "mixed_precision": {"bfloat16": "bf16", "float16": "fp16", "float32": "no"}[dtype],
        "whole_epochs": int(epochs),
        "warmup_share": round(min(more["warmup_steps"] / steps, 1.0), 6),
    }
    in_yaml = {
        key: yaml.safe_dump(value, default_flow_style=True, width=math.inf).split("\n")[0]
        for key, value in values.items()
    }
    text = Template((EXPORTS / f"{tool}.yaml").read_text(encoding="utf-8")).substitute(in_yaml)
    warning = WARNINGS.get(dataset.split("@")[0])
    if warning is None:
        return text
    first, rest = text.split("\n", 1)
    return "\n".join([first, textwrap.fill(warning, 118, initial_indent="# ", subsequent_indent="# "), rest])
