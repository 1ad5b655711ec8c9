"""What notebooks, helpers and documents keep to, seen without running anything.

A notebook joins by lying in `notebooks/`, a helper by lying in `utils/`. At the end a sound notebook is broken in many
ways, and each fault must be noticed.
"""

import ast
import copy
import io
import json
import re
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
HELPERS = sorted((ROOT / "utils").rglob("*.py"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "utils/README.md")),
    *sorted((ROOT / "notebooks").glob("*.md")),
    *sorted((ROOT / "notebooks").rglob("*.ipynb")),
]

# Who may import whom: a room may import those that are named, and itself.
GROUND = {"environment", "hub", "preflight", "figures", "intervals"}
BELOW = GROUND | {"data", "orpo", "train", "curves", "evaluate", "publish"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    **dict.fromkeys(("data", "orpo", "curves"), GROUND),
    **dict.fromkeys(("train", "evaluate"), GROUND | {"data"}),
    "publish": BELOW - {"orpo"},
    "widgets": BELOW,
    "exercises": BELOW | {"widgets"},
    "practice": {"environment"},
}
HEAVY = {"torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "huggingface_hub", "wandb"}
HEAVY |= {"papermill", "matplotlib", "pandas", "numpy", "IPython", "gradio", "lm_eval", "datasketch", "scipy"}

SWITCHES = re.compile(r"SMOKE|TESTING|IN_CI|COLAB|^(environ|getenv|userdata|platform)$")
PROMPTS = {"input", "login", "notebook_login", "interpreter_login", "getpass"}
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[oprsu]_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bwandb_v1_\w{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
# Words that no file may hold; one that is cut in two here would otherwise be found in this file.
FORBIDDEN = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "issue" + " #", "/wo" + "rk/"]
MARK = re.compile(r"# @param (\[[^\]]*\]|)( ?\{type: ?\"(string|integer|number|boolean|raw|slider)\"[^}]*\}|)$")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code(cells: list) -> ast.Module:
    """The code of cells, with IPython's magics as the calls they stand for."""
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    return ast.parse("\n".join(TransformerManager().transform_cell(source) for source in sources))


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported: `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def names_from_utils(tree: ast.AST) -> set[str]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("utils")]
    return {alias.asname or alias.name for node in found for alias in node.names}


def unsafe_loads(tree: ast.AST) -> list[str]:
    """Calls that could run a repository's code, or read a pickle."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        owner, _, method = ast.unparse(call.func).rpartition(".")
        owner = owner.split(".")[-1]
        if given.get("trust_remote_code", "False") != "False":
            found.append(f"trusts remote code: {ast.unparse(call)}")
        holds_weights = re.search("Model|For", owner) and owner != "PeftModel"
        if method == "from_pretrained" and holds_weights and given.get("use_safetensors") != "True":
            found.append(f"no use_safetensors=True: {ast.unparse(call)}")
    return found


def navigation(name: str) -> str:
    names = [path.name for path in NOTEBOOKS]
    place = names.index(name)
    before = f"[previous]({names[place - 1]})" if place else "previous"
    after = f"[next]({names[place + 1]})" if place + 1 < len(names) else "next"
    return f"{before} | [contents](../README.md#contents) | {after}"


def parameter_problems(source: str) -> list[str]:
    """What is wrong with a cell of parameters: literals with a typed mark, each on a line of its own."""
    found, body = [], ast.parse(source).body
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    for statement in body:
        name = ast.unparse(statement).partition(" = ")[0]
        if not isinstance(statement, ast.Assign) or not re.fullmatch("[A-Z][A-Z0-9_]*", name):
            found.append(f"not `NAME = ...`: {ast.unparse(statement)}")
            continue
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            found.append(f"{name} is not a literal")
            continue
        if name == "MORE" and isinstance(value, dict):
            continue
        mark = MARK.match(comments.get(statement.end_lineno, ""))
        if not mark or not (mark[1] or mark[2]) or statement.lineno != statement.end_lineno:
            found.append(f"{name} has no typed mark on its line: {comments.get(statement.lineno)}")
        elif mark[1] and value not in ast.literal_eval(mark[1]):
            found.append(f"{name}: {value!r} is none of its choices {mark[1]}")
        elif value is None:
            found.append(f"{name} is None, which stands for another value")
    if len(body) > 12:
        found.append(f"{len(body)} parameters, more than 12")
    return found


def problems(name: str, notebook: nbformat.NotebookNode) -> dict[str, object]:
    """Every rule that a notebook breaks, with what broke it; nothing if it is sound."""
    cells, number = notebook.cells, name[:2]
    first, setup, parameters = cells[:3]
    markdown = [cell.source for cell in cells if cell.cell_type == "markdown"]
    code_cells = [cell for cell in cells if cell.cell_type == "code"]
    lesson = code_cells[2:]
    lines = [[line for line in cell.source.splitlines() if line.strip()] for cell in lesson]
    try:
        tree = code(cells[2:])
    except SyntaxError as error:
        return {"parses": str(error)}
    essential = [cell for cell in code_cells if "essential" in cell.metadata.get("tags", [])]
    taken = names_from_utils(tree)
    used_alone = {node.id for node in ast.walk(code(essential)) if isinstance(node, ast.Name)} & taken
    used_alone |= {found for found in imports(code(essential)) if found.startswith("utils")}
    titles = re.findall(r"^# (.+)$", re.sub(r"```.*?```", "", "\n".join(markdown), flags=re.DOTALL), re.MULTILINE)
    words = "_".join(re.findall("[a-z0-9]+", " ".join(titles).lower()))
    badge = re.findall(
        r"\]\(https://colab\.research\.google\.com/github/[^/]+/[^/]+/blob/[^/]+/([^)]*)\)", first.source
    )
    calls = [ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call)]
    switched = [getattr(node, "id", None) or getattr(node, "attr", None) or "" for node in ast.walk(tree)]
    never = [node for node in ast.walk(tree) if isinstance(node, ast.If) and isinstance(node.test, ast.Constant)]
    ids = [cell.get("id", "") for cell in cells]
    tagged = [place for place, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    found = {
        "title": words != name[3:-6] and words,
        "badge": badge != [f"notebooks/{name}"] and badge,
        "card": "| You learn | You need | Hardware | Time |" not in first.source,
        "navigation": navigation(name) not in first.source or not cells[-1].source.rstrip().endswith(navigation(name)),
        "setup": setup.source != read(NOTEBOOKS[0]).cells[1].source and "differs from the first notebook's",
        "parameters": (tagged != [2] and tagged) or parameter_problems(parameters.source),
        "kept": [cell.id for cell in code_cells if cell.get("outputs") or cell.get("execution_count") is not None],
        "metadata": [key for cell in cells for key in cell.metadata if key not in ("tags", "cellView")]
        + [key for key in notebook.metadata if key == "widgets"],
        "ids": len(set(ids)) != len(ids) or [it for it in ids if not re.fullmatch("[a-z]+[0-9]*(-[a-z0-9]+)*", it)],
        "format": notebook.nbformat_minor != 5 or notebook.metadata.get("kernelspec", {}).get("language") != "python",
        "short cells": statistics.median(map(len, lines)) > 8 and sorted(map(len, lines)),
        "few long cells": sum(len(it) > 20 for it in lines) > 4 and sorted(map(len, lines)),
        "line length": [line for cell in code_cells for line in cell.source.splitlines() if len(line) > 80],
        "noqa": [line for cell in code_cells for line in cell.source.splitlines() if "# noqa" in line],
        "switches": [it for it in switched if SWITCHES.search(it)] + list(map(ast.unparse, never)),
        "prompts": [it for it in calls if it in PROMPTS] or [cell.id for cell in cells if "%store" in cell.source],
        "safe loads": unsafe_loads(tree),
        "eight names": len(taken) > 8 and sorted(taken),
        "essential": used_alone or (number in ("01", "02", "03", "05") and not essential),
    }
    if number == "03":
        size = sum(map(len, lines))
        found["lesson of 03"] = (len(lesson) + 2 > 18 or size > 200) and f"{len(lesson) + 2} code cells, {size} lines"
    return {rule: broken for rule, broken in found.items() if broken}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_rules(path):
    nbformat.validate(read(path))
    found = problems(path.name, read(path))
    assert not found, "\n".join(f"{rule}: {broken}" for rule, broken in found.items())


FAULTS = {  # rule -> (cell, text, what stands in its place)
    "parses": (-2, "", "def f(:\n"),
    "title": (0, "# ", "# About how to "),
    "badge": (0, "/notebooks/", "/other/"),
    "card": (0, "| Hardware |", "| GPU |"),
    "navigation": (-1, "[contents]", "[Contents]"),
    "setup": (1, "import sys", "import sys, os"),
    "parameters": (2, "# @param", "# param"),
    "line length": (-2, "", "word = 1" + " + 1" * 30 + "\n"),
    "noqa": (-2, "", "word = 1  # noqa\n"),
    "switches": (-2, "", "if False:\n    word = 1\n"),
    "prompts": (-2, "", "input('Your name? ')\n"),
    "safe loads": (-2, "", "AutoModelForCausalLM.from_pretrained(base)\n"),
    "eight names": (-2, "", "from utils import a, b, c, d, e, f, g, h, i\n"),
    "essential": (-2, "", "from utils import figures\nfigures.show\n"),
}


def test_a_fault_in_a_notebook_is_noticed():
    path, sound = NOTEBOOKS[3], read(NOTEBOOKS[3])
    for rule, (place, old, new) in FAULTS.items():
        broken = copy.deepcopy(sound)
        if place == -2:
            broken.cells.insert(4, nbformat.v4.new_code_cell(new, id="added", metadata={"tags": ["essential"]}))
        else:
            assert old in broken.cells[place].source, rule
            broken.cells[place].source = broken.cells[place].source.replace(old, new)
        assert rule in problems(path.name, broken), f"nobody notices the fault against {rule!r}"
    assert parameter_problems('A = "b"  # @param ["c", "d"]') and parameter_problems("A = None  # @param [1] ")
    assert unsafe_loads(ast.parse("AutoConfig.from_pretrained(base, trust_remote_code=True)"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "utils").parts[0].removesuffix(".py")


def imports_above(path: Path) -> list[str]:
    """What a helper imports although its room may not."""
    names = [name.split(".") for name in imports(ast.parse(path.read_text(encoding="utf-8")))]
    rooms = {parts[1] for parts in names if parts[0] == "utils"}
    tops = {parts[0] for parts in names} & {"tests", "support", "benchmarks", "notebooks"}
    return sorted(rooms - MAY_IMPORT.get(room_of(path), set()) - {room_of(path)} | tops)


def test_a_room_imports_only_rooms_below_it():
    above = {path.relative_to(ROOT).as_posix(): imports_above(path) for path in HELPERS if path.parent.name != "utils"}
    above |= {path.relative_to(ROOT).as_posix(): imports_above(path) for path in HELPERS if room_of(path) in GROUND}
    assert {name: it for name, it in above.items() if it} == {}


def test_helpers_load_safely_and_only_environment_reads_variables():
    for path in HELPERS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not unsafe_loads(tree), path
        assert not [name for name in imports(tree) if name.endswith(".*")], f"{path}: a star import"
        reads = [node for node in ast.walk(tree) if getattr(node, "attr", None) in ("environ", "getenv")]
        assert not reads or path.stem in ("environment", "course"), f"{path}, line {reads[0].lineno}"


def test_importing_the_faces_loads_nothing_heavy():
    """No heavy library, no environment variable, no thread and no word: in a process of its own."""
    script = """
import importlib, json, os, sys, threading
before = dict(os.environ)
for name in sys.argv[1:]:
    importlib.import_module(name)
changed = sorted(name for name in before.keys() | os.environ if before.get(name) != os.environ.get(name))
loaded = sorted({name.split(".")[0] for name in sys.modules})
place = sys.modules["utils"].__file__
print(json.dumps({"loaded": loaded, "changed": changed, "threads": threading.active_count(), "place": place}))
"""
    names = sorted({f"utils.{room_of(path)}" for path in HELPERS if room_of(path) != "__init__"})
    run = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == "" and len(run.stdout.splitlines()) == 1, f"an import prints: {run.stdout}{run.stderr}"
    found = json.loads(run.stdout)
    assert Path(found["place"]) == ROOT / "utils" / "__init__.py"
    assert not HEAVY & set(found["loaded"]), f"import {sorted(HEAVY & set(found['loaded']))} where they are used"
    assert not found["changed"] and found["threads"] == 1, found


# Documents


def markdown_of(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def anchors(markdown: str) -> set[str]:
    """What `#...` may name: every heading in the form that GitHub and Jupyter give it, and explicit anchors."""
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', markdown))
    plain = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    for heading in re.findall(r"^#{1,6} (.+?)\s*#*$", plain, re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found |= {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"), text.replace(" ", "-")}
    return found


def broken_links(document: Path, markdown: str) -> list[str]:
    broken, prose = [], re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.DOTALL)
    links = re.findall(r"\]\(\s*<?([^)\s>]+)[^)]*\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or ROOT not in (target, *target.parents):
            broken.append(f"{link}: there is no {name}")
        elif anchor and target.suffix in (".md", ".ipynb"):
            if anchor not in anchors(markdown if target == document else markdown_of(target)):
                broken.append(f"{link}: {target.name} has no heading {anchor!r}")
    return broken


def test_links_and_names_of_notebooks_lead_somewhere():
    stems = {path.stem for path in (ROOT / "notebooks").rglob("*.ipynb")}
    broken = {}
    for path in [*DOCUMENTS, *HELPERS]:
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"\b(\d\d_[a-z][a-z0-9_]*)\b(?!\.(?:svg|webp|png))", text)
        wrong = sorted(set(named) - stems)
        wrong += sorted(set(re.findall(r"\b[Nn]otebooks? (\d\d)\b", text)) - {stem[:2] for stem in stems})
        if path in DOCUMENTS:
            wrong += broken_links(path, markdown_of(path))
        if wrong:
            broken[path.relative_to(ROOT).as_posix()] = wrong
    assert not broken, broken
    assert broken_links(ROOT / "README.md", "# A!\n[a](no.py) [b](#a) [c](#the-end) [d](https://x.org)") == [
        "no.py: there is no no.py",
        "#the-end: README.md has no heading 'the-end'",
    ]


def test_no_forbidden_word_and_no_secret_in_any_file():
    if not (ROOT / ".git").exists():
        pytest.skip("a downloaded copy has no git that says which files belong to it")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = []
    for path in (ROOT / name for name in names if name):
        if not path.is_file() or path.suffix in (".parquet", ".png", ".webp"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        words = [word for word in FORBIDDEN if word in text] + [match[0][:6] for match in SECRET.finditer(text)]
        if ROOT / "utils" in path.parents:  # a W&B key, or a commit that nobody read
            words += re.findall(r"\b[0-9a-f]{40}\b", text)
        found += [f"{path.relative_to(ROOT)} has {word!r}" for word in words]
    assert not found, "; ".join(found)
