"""Reads the recipes: named sets of notebook 03's parameters, each value with its source, in `recipes/*.yaml`."""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "recipes"


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
