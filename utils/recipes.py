"""Named sets of training values, each value with its source.

What decides a value: an explicit parameter that is not `None`, else the recipe, else the defaults of `course-llama3`.
Hardware decides nothing here: see `profiles`.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
LABONNE = "Labonne 2024, huggingface.co/blog/mlabonne/orpo-llama-3"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns; `sources` says where each departure from the defaults comes from."""

    name: str = "course-llama3"
    base_model: str = "NousResearch/Meta-Llama-3-8B"
    dataset: str = "mlabonne/orpo-dpo-mix-40k"
    dataset_revision: str | None = "v1.0"
    dataset_config: str | None = None
    dataset_split: str = "train"
    num_pairs: int | None = 1000
    num_eval_pairs: int = 200
    learning_rate: float = 8e-5
    lr_scheduler_type: str = "linear"
    warmup_steps: int = 10
    beta: float = 0.1
    num_epochs: float = 1.0
    effective_batch: int = 8
    max_length: int = 1024
    truncate_answers: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = ATTENTION + MLP
    optim: str = "paged_adamw_8bit"
    sources: tuple[tuple[str, str], ...] = ()


DEFAULT_SOURCES = {
    "base_model": "ungated mirror of meta-llama/Meta-Llama-3-8B",
    "dataset": LABONNE,
    "dataset_revision": "the 39,703 rows of the article; main has 44,245",
    "dataset_config": "the data set has only one",
    "dataset_split": "its only one",
    "num_pairs": LABONNE,
    "num_eval_pairs": "an accuracy from 200 rows is known within 7 points, from 10 rows within 31 (95 %, binomial)",
    "learning_rate": "TRL's ORPO example script for LoRA; the article's 8e-6 is a rate for full fine-tuning",
    "lr_scheduler_type": LABONNE,
    "warmup_steps": LABONNE,
    "beta": "lambda of Mistral-ORPO in the paper, arXiv 2403.07691",
    "num_epochs": LABONNE,
    "effective_batch": LABONNE + ": 2 pairs x 4 accumulation",
    "max_length": LABONNE,
    "truncate_answers": "a cut answer has no end token to learn",
    "lora_r": LABONNE,
    "lora_alpha": LABONNE,
    "lora_dropout": "TRL disables dropout (disable_dropout=True), so any other value would be inert",
    "target_modules": LABONNE,
    "optim": LABONNE,
}

RECIPES = {
    recipe.name: recipe
    for recipe in [
        Recipe(),
        Recipe(
            name="article-llama3",
            num_pairs=990,
            num_eval_pairs=10,
            learning_rate=8e-6,
            truncate_answers=True,
            lora_dropout=0.05,
            sources=(
                ("num_pairs", f"{LABONNE}: 99 % of 1,000"),
                ("num_eval_pairs", f"{LABONNE}: 1 % of 1,000"),
                ("learning_rate", LABONNE),
                ("truncate_answers", LABONNE),
                ("lora_dropout", f"{LABONNE}; inert, see lora_dropout of course-llama3"),
            ),
        ),
    ]
}


def resolve(name: str, **parameters) -> tuple[Recipe, dict[str, str]]:
    """Combine a recipe with the parameters that are not `None`.

    Args:
        name: a recipe's name.
        parameters: fields of `Recipe`; `None` leaves the recipe's value.

    Returns:
        (recipe, source of each value).

    Raises:
        ValueError: for an unknown recipe or field, naming those there are, or for a count below 1.

    Example:
        >>> recipe, source = resolve("course-llama3", beta=0.2, learning_rate=None)
        >>> recipe.beta, source["beta"], recipe.learning_rate
        (0.2, 'your parameter', 8e-05)
    """
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}. Choose one of {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    known = {field.name for field in fields(Recipe)} - {"name", "sources"}
    if unknown := set(parameters) - known:
        raise ValueError(f"A recipe has no value {', '.join(sorted(unknown))}. It has: {', '.join(sorted(known))}.")
    given = {key: value for key, value in parameters.items() if value is not None}
    for key in ("num_pairs", "num_eval_pairs", "effective_batch", "max_length", "lora_r"):
        if given.get(key, 1) < 1:
            raise ValueError(f"{key.upper()} = {given[key]} leaves nothing to do: set it to 1 or more, or None.")
    changed = {}
    if given.get("dataset", recipe.dataset) != recipe.dataset:  # the recipe's tag and number say nothing about it
        recipe = replace(recipe, dataset_revision=None, num_pairs=None)
        changed = {
            "dataset_revision": "main, as it is today; a local file has none",
            "dataset_config": "the only one, or the one called default",
            "dataset_split": "the usual name",
            "num_pairs": "all of your data",
        }
    sources = DEFAULT_SOURCES | dict(recipe.sources) | changed | {key: "your parameter" for key in given}
    return replace(recipe, **given), sources


def take_mix(recipe: Recipe, sources: dict[str, str], folder) -> tuple[Recipe, dict[str, str]]:
    """Take the mix of notebook 02, if it is there, in the place of the data that `course-llama3` names.

    Data that were asked for stay, and so do those of a recipe that repeats somebody's run.

    Args:
        recipe, sources: of `resolve`.
        folder: where notebook 02 leaves its mix.

    Returns:
        (recipe, source of each value), the same ones if there is no mix to take.
    """
    asked_for = any(sources[key] != DEFAULT_SOURCES[key] for key in ("dataset", "dataset_revision"))
    if recipe.name != "course-llama3" or asked_for:
        return recipe, sources
    if not (Path(folder) / "report.json").is_file():
        return recipe, sources
    mixed = "the mix of notebook 02"
    sources = sources | {
        "dataset": mixed,
        "dataset_revision": "a folder has none; its report names those of its sources",
    }
    return replace(recipe, dataset=str(folder), dataset_revision=None), sources


def fit_to_base(
    recipe: Recipe, sources: dict[str, str], context: int | None, modules: list[str]
) -> tuple[Recipe, dict[str, str]]:
    """Adapt a recipe to what a base can do: its context, and the names of its linear layers.

    Args:
        recipe, sources: of `resolve`.
        context: the most tokens that the base reads, its `max_position_embeddings`; `None` if it sets no bound.
        modules: names of its linear layers, see `utils.bases.linear_layers`.

    Returns:
        (recipe, source of each value), the same ones if nothing had to change.

    Example:
        >>> recipe, source = fit_to_base(*resolve("course-llama3"), 512, ["c_attn", "c_proj"])
        >>> recipe.max_length, recipe.target_modules
        (512, ('c_attn', 'c_proj'))
    """
    if context is not None and context < recipe.max_length:
        sources = sources | {"max_length": f"this base reads no more; {recipe.max_length} were asked for"}
        recipe = replace(recipe, max_length=context)
    if missing := [name for name in recipe.target_modules if name not in modules]:
        sources = sources | {"target_modules": f"all linear layers of this base, which has no {', '.join(missing)}"}
        recipe = replace(recipe, target_modules=tuple(modules))
    return recipe, sources


def as_rows(recipe: Recipe, sources: dict[str, str]) -> list[dict[str, str]]:
    """Return a recipe as rows of (setting, value, source)."""
    values = as_dict(recipe) | {"target_modules": ", ".join(recipe.target_modules)}
    return [{"setting": key, "value": str(values[key]), "source": source} for key, source in sources.items()]


def as_dict(recipe: Recipe) -> dict:
    """Return a recipe's values without their sources, ready for JSON."""
    return {key: value for key, value in asdict(recipe).items() if key != "sources"}
