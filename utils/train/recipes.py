"""What decides a value: an explicit parameter that is not `None`, else the recipe, else the defaults.

The defaults are those of `course-llama3`, and the recipes, each value with its source, stand in `recipe_book`.
Hardware decides nothing here: see `profiles`.
"""

from dataclasses import asdict, fields, replace
from pathlib import Path

from utils.train.recipe_book import ATTENTION, DEFAULT_SOURCES, MLP, RECIPES, Recipe

FOLDER = Path(__file__).parents[2] / "recipes"
__all__ = ["ATTENTION", "DEFAULT_SOURCES", "MLP", "RECIPES", "Recipe"]  # so that one import is enough


def read_recipe(name: str) -> dict:
    """Read a recipe as notebook 03's parameters; what its file leaves out is as in `course-llama3`.

    Example:
        >>> read_recipe("lazyorpo-phi2")["BETA"], read_recipe("paper-hh")["MORE"]["lora_r"]
        (0.25, 16)
    """
    import yaml

    files = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if name not in files:
        raise ValueError(f"There is no recipe {name!r}. Choose one of {', '.join(files)}.")
    course, own = (yaml.safe_load(files[it].read_text(encoding="utf-8")) for it in ("course-llama3", name))
    return course | own | {"MORE": course["MORE"] | own.get("MORE", {})}


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
        recipe = replace(recipe, dataset_revision=None, num_pairs=None, stream_rows=None)
        changed = {
            "dataset_revision": "main, as it is today; a local file has none",
            "dataset_config": "the only one, or the one called default",
            "dataset_split": "the usual name",
            "num_pairs": "all of your data",
            "stream_rows": DEFAULT_SOURCES["stream_rows"],
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
        modules: names of its linear layers, see `utils.train.base.linear_layers`.

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
    """Return a recipe's values without their sources, ready for JSON; with `warning` if its data have one."""
    values = {key: value for key, value in asdict(recipe).items() if key != "sources"}
    return values | ({"warning": recipe.warning} if recipe.warning else {})
