"""Takes a run elsewhere: the same recipe as configuration of Axolotl, LLaMA-Factory, AutoTrain, or TRL's own parser.

The configurations are the templates in `data/exports`, each with comments on what its tool computes differently. Left
out: the tools themselves, which are not installed. That they know every field is tested against the fields of their
packages, recorded in `data/tool_fields.json`.
"""

import json
import math
import textwrap
from pathlib import Path
from string import Template

EXPORTS = Path(__file__).parents[2] / "data" / "exports"
TOOLS = ("axolotl", "llama-factory", "autotrain", "trl-cli")
COLUMNS = ("prompt", "chosen", "rejected")
MIXED_PRECISION = {"bfloat16": "bf16", "float16": "fp16", "float32": "no"}


def export_recipe(
    recipe,
    tool: str,
    train_pairs: int | None = None,
    micro_batch: int = 1,
    revision: str | None = None,
    dtype: str = "bfloat16",
    seed: int = 42,
) -> str:
    """Write a recipe as a tool's configuration, which reads the files that `write_export` puts beside it.

    Args:
        recipe: a `utils.train.recipes.Recipe`.
        tool: one of `TOOLS`.
        train_pairs: pairs that are trained on; `None` is the recipe's number. Only AutoTrain needs to know.
        micro_batch: pairs in one pass, see `utils.train.profiles`; it divides the recipe's effective batch.
        revision: commit of the base; `None` is main.
        dtype: what the GPU computes in: "bfloat16", "float16" or "float32".
        seed: of the trainer.

    Returns:
        YAML, with comments on what the tool computes differently from notebook 03.

    Raises:
        ValueError: for an unknown tool, or what the tool cannot do.

    Example:
        >>> from utils.train.recipes import RECIPES
        >>> print(export_recipe(RECIPES["small"], "axolotl").splitlines()[0])
        # small, for: axolotl train axolotl.yaml
    """
    if tool not in TOOLS:
        raise ValueError(f"There is no tool {tool!r}. Choose one of {', '.join(TOOLS)}.")
    if recipe.effective_batch % micro_batch:
        raise ValueError(
            f"Passes of {micro_batch} pairs do not add up to {recipe.effective_batch}: change micro_batch."
        )
    values = vars(recipe) | {
        "revision": revision or "main",
        "too_long": "truncate" if recipe.truncate_answers else "drop",
        "modules_in_a_line": ",".join(recipe.target_modules),
        "micro_batch": micro_batch,
        "accumulation": recipe.effective_batch // micro_batch,
        "dtype": dtype,
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "mixed_precision": MIXED_PRECISION[dtype],
        "seed": seed,
    }
    if tool == "autotrain":
        values |= _for_autotrain(recipe, train_pairs or recipe.num_pairs)
    text = Template((EXPORTS / f"{tool}.yaml").read_text(encoding="utf-8"))
    first, rest = text.substitute({key: _yaml(value) for key, value in values.items()}).split("\n", 1)
    warning = textwrap.fill(recipe.warning, 118, initial_indent="# ", subsequent_indent="# ")
    return "\n".join(filter(None, [first, warning, rest]))


def _yaml(value) -> str:
    """Write a value in one line of YAML."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).split("\n")[0]


def _for_autotrain(recipe, pairs: int | None) -> dict:
    """Turn epochs and warm-up into what AutoTrain counts: whole ones, and a share of the steps."""
    if recipe.num_epochs != int(recipe.num_epochs):
        raise ValueError(
            f"AutoTrain counts whole epochs, and {recipe.num_epochs} is none: set NUM_EPOCHS to 1 or more."
        )
    if pairs is None:
        raise ValueError("AutoTrain counts warm-up as a share of the steps: give train_pairs, the pairs trained on.")
    steps = math.ceil(pairs / recipe.effective_batch) * int(recipe.num_epochs)
    return {"whole_epochs": int(recipe.num_epochs), "warmup_share": round(min(recipe.warmup_steps / steps, 1.0), 6)}


def rendered(pair: dict, tokenizer) -> dict[str, str]:
    """Render a pair as text: the prompt with what opens the answer, and each answer with its end token.

    Args:
        pair: of the course's form, see `utils.data.pairs`.
        tokenizer: with the course's chat template, see `utils.data.chat_format.prepare_tokenizer`.
    """
    prompt = tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True)
    whole = {s: tokenizer.apply_chat_template(pair["prompt"] + pair[s], tokenize=False) for s in COLUMNS[1:]}
    return {"prompt": prompt} | {side: text[len(prompt) :] for side, text in whole.items()}


def write_export(folder, recipe, tool: str, pairs, tokenizer, **options) -> list[Path]:
    """Write a tool's configuration and all that it reads into a folder, in which the tool is then started.

    Args:
        folder: its own for each tool.
        recipe, tool: see `export_recipe`.
        pairs: `datasets.DatasetDict` with train and test, of `utils.data.pairs.split_pairs`.
        tokenizer: see `rendered`.
        options: see `export_recipe`.

    Returns:
        The files.
    """
    files = {f"{tool}.yaml": export_recipe(recipe, tool, train_pairs=len(pairs["train"]), **options)}
    for split in ("train", "test"):
        rows = (json.dumps(rendered(pair, tokenizer), ensure_ascii=False) for pair in pairs[split])
        files[f"pairs/{split}.jsonl"] = "".join(row + "\n" for row in rows)
    if tool == "llama-factory":
        about = {"ranking": True, "columns": {name: name for name in COLUMNS}}
        info = {split: {"file_name": f"{split}.jsonl"} | about for split in ("train", "test")}
        files["pairs/dataset_info.json"] = json.dumps(info, indent=2) + "\n"
    if tool == "trl-cli":
        files["train_orpo.py"] = (EXPORTS / "train_orpo.py").read_text(encoding="utf-8")
    (Path(folder) / "pairs").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (Path(folder) / name).write_text(text, encoding="utf-8")
    return [Path(folder) / name for name in files]
