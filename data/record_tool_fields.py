"""Records which fields the tools of `utils/publish/export.py` know, from the source of their packages.

    pip download --no-deps --dest wheels axolotl llamafactory autotrain-advanced
    python data/record_tool_fields.py wheels

The classes are read by `ast`, so nothing is installed or run. Written to `tool_fields.json`: for each tool its package,
version, address and date, and of each class the fields with their choices, where they are a `Literal` or an `Enum`.
"""

import ast
import datetime
import json
import re
import sys
import zipfile
from pathlib import Path

# Tool: package, files to read, and the classes that its configuration is made into.
TOOLS = {
    "axolotl": (
        "axolotl",
        "axolotl/utils/schemas/",
        ["AxolotlInputConfig", "SFTDataset"],
    ),
    "llama-factory": (
        "llamafactory",
        ("llamafactory/hparams/", "llamafactory/data/parser.py"),
        ["ModelArguments", "DataArguments", "FinetuningArguments", "TrainingArguments", "DatasetAttr"],
    ),
    "autotrain": (
        "autotrain_advanced",
        ("autotrain/trainers/clm/params.py", "autotrain/trainers/common.py", "autotrain/parser.py"),
        ["LLMTrainingParams"],
    ),
}
# Names that are no fields of a class: text constants in these functions or methods.
WORDS = {
    "llama-factory": ["get_dataset_list", "join"],
    "autotrain": ["_parse_config", "__post_init__"],
}


def read(wheel: Path, parts) -> ast.Module:
    """Parse the files of a wheel whose names begin with one of the parts, as one module."""
    with zipfile.ZipFile(wheel) as files:
        names = [name for name in files.namelist() if name.startswith(parts) and name.endswith(".py")]
        return ast.Module([node for name in names for node in ast.parse(files.read(name)).body], [])


def choices(annotation, enums: dict[str, list]) -> list | None:
    """List what a field may be, if its annotation says so and allows nothing else but `None`."""
    if isinstance(annotation, ast.BinOp):  # X | None
        sides = [side for side in (annotation.left, annotation.right) if getattr(side, "value", 0) is not None]
        return choices(sides[0], enums) if len(sides) == 1 else None
    if isinstance(annotation, ast.Name):
        return enums.get(annotation.id)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
        return list(ast.literal_eval(ast.Tuple(getattr(annotation.slice, "elts", [annotation.slice]), ast.Load())))
    return None


def fields(name: str, classes: dict[str, ast.ClassDef], enums: dict[str, list]) -> tuple[dict, list[str]]:
    """Collect the fields of a class and its bases, and the bases that the package does not define itself."""
    if name not in classes:
        return {}, [name]
    found, others = {}, []
    for base in classes[name].bases:
        inherited, more = fields(ast.unparse(base).split(".")[-1], classes, enums)
        found, others = found | inherited, others + more
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign):
            found[node.target.id] = choices(node.annotation, enums)
    return found, others


def main(folder: Path) -> None:
    """Write the record of the wheels in a folder."""
    record = {}
    for tool, (package, parts, wanted) in TOOLS.items():
        (wheel,) = folder.glob(f"{package}-*.whl")
        version, tree = wheel.name.split("-")[1], read(wheel, parts)
        classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        enums = {
            name: [item.value.value for item in node.body if isinstance(item, ast.Assign)]
            for name, node in classes.items()
            if any("Enum" in ast.unparse(base) for base in node.bases)
        }
        words = {
            str(constant.value)
            for node in ast.walk(tree)
            if getattr(node, "name", None) in WORDS.get(tool, [])
            for constant in ast.walk(node)
            if isinstance(constant, ast.Constant) and re.fullmatch(r"[\w:-]{1,40}", str(constant.value))
        }
        entry = {
            "package": package,
            "version": version,
            "address": f"https://pypi.org/project/{package.replace('_', '-')}/{version}/",
            "read": datetime.date.today().isoformat(),
            "classes": {},
            "inherits": [],
        }
        for name in wanted:
            entry["classes"][name], others = fields(name, classes, enums)
            entry["inherits"] += others
        entry["inherits"] = sorted(set(entry["inherits"]) - {"BaseModel"})
        entry["words"] = sorted(words)
        record[tool] = entry
    lines = json.dumps(record, indent=1)
    Path(__file__).with_name("tool_fields.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
