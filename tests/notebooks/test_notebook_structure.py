"""The form that notebooks, helpers and documents share: what can be seen without running anything.

Everything is found by looking: a notebook joins by lying in `notebooks/`, a helper by lying in `utils/`. At the end, a
sound notebook is broken in many ways, and every check must notice.
"""

import ast
import doctest
import fnmatch
import importlib
import io
import json
import re
import statistics
import subprocess
import sys
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
MODULES = sorted(path for path in (ROOT / "utils").glob("*.py") if path.stem != "__init__")

# In a notebook, the setup and the parameters cell among them. Cells after the heading of the exercises are not counted:
# what a lesson holds at once is limited, and nobody who only reads has to read those.
CODE_CELLS = range(10, 26)
EXERCISES = re.compile("^## On your own$", flags=re.MULTILINE)
# Non-blank lines of a code cell; the setup cell and the parameters cell are not counted.
MEDIAN_LINES, LONG_LINES, LONG_SHARE, MOST_LINES = 10, 20, 0.15, 40

# Lines of code and docstring of a helper, so neither blank ones nor those that are only a comment.
MODULE_LINES = 220
MODULE_LINES_OF = {"practice_hub": 360, "practice_repositories": 330, "fused_orpo": 330, "stand_ins": 340}

# Who may import whom inside utils/: these two for everybody, and for a few one more; `course` may import all.
SHARED = {"environment", "figures"}
MAY_IMPORT = {
    "bases": {"hub_access"},
    "benchmark_items": {"source_loading"},
    "comparison": {"memory"},
    "comparison_figures": {"intervals"},
    "curve_explorer": {"curve_figures", "curve_lines"},
    "curve_figures": {"curve_lines", "curves"},
    "curve_lines": {"intervals"},
    "curve_quiz": {"curve_figures", "curve_lines", "intervals"},
    "curves": {"keeping", "wandb_offline", "wandb_online"},
    "data_exercises": {"exercises", "memory", "preflight", "profiles", "sources"},
    "diagnosis": {"intervals"},
    "evaluation": {"intervals", "model_loading"},
    "examining": {"chat_format", "overlap", "pair_formats", "preference_data"},
    "keeping": {"hub_access"},
    "loss_explorer": {"orpo_math"},
    "memory_calculator": {"bases", "memory", "preflight", "profiles", "recipes"},
    "model_card": {"bases", "curve_figures", "curves"},
    "merging": {"hub_access"},
    "merged_models": {"bases", "hub_access"},
    "mix_files": {"hub_access"},
    "memory_limits": {"training_checks"},
    "mixing": {"examining", "overlap"},
    "model_loading": {"memory"},
    "orpo_exercises": {"exercises", "orpo_math"},
    "orpo_figures": {"orpo_math"},
    "preference_data": {"pair_formats"},
    "preflight": {"bases", "memory", "profiles", "recipes"},  # it foretells what they will do
    "recipes": {"recipe_book"},
    "results_exercises": {"exercises", "orpo_math"},
    "runtime_exercises": {"exercises"},
    "source_loading": {"hub_access", "preference_data", "sources"},
    "source_stand_ins": {"benchmark_stand_ins", "small_world"},
    "sources": {"pair_formats"},
    "step_costs": {"memory", "model_loading"},
    "stand_ins": {"benchmark_stand_ins", "small_world", "source_stand_ins"},
    "practice_hub": {"practice_repositories", "practice_storage"},
    "token_heat_map": {"evaluation"},
    "training_exercises": {"bases", "chat_format", "exercises", "hub_access", "memory", "merging"},
    "training_checks": {"fused_orpo"},
    "wandb_records": {"hub_access", "keeping"},
    "practice_storage": {"practice_repositories"},
}
HEAVY = set(
    "torch transformers trl peft bitsandbytes datasets accelerate huggingface_hub wandb papermill matplotlib pandas"
    " numpy IPython gradio lm_eval datasketch scipy".split()
)

# Names that would make a notebook take another path in a test, or on one platform.
SWITCHES = re.compile(r"SMOKE|TESTING|IN_CI|COLAB|^(environ|getenv|userdata|platform)$")
PROMPTS = {"input", "login", "notebook_login", "interpreter_login", "getpass"}
# A word that is cut in two here would otherwise be found in this file.
FORBIDDEN = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "issue" + " #", "/wo" + "rk/"]
SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[oprsu]_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bwandb_v1_\w{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
HASH = re.compile(r"\b[0-9a-f]{40}\b")  # a W&B key, or a commit that nobody read
PARAMETER = re.compile(r"# @param\s*(?P<choices>\[[^\]]*\])?\s*(?P<type>\{[^}]*\})?\s*(?P<reason>.*)")


@dataclass
class Notebook:
    """A notebook as it lies in git."""

    path: Path
    content: nbformat.NotebookNode

    @property
    def cells(self) -> list:
        return self.content.cells

    @property
    def code(self) -> list:
        """The code cells after setup and parameters."""
        return [cell for cell in self.cells[3:] if cell.cell_type == "code"]

    @property
    def lesson(self) -> list:
        """The cells before the exercises; all, if there are none."""
        own = [
            place for place, it in enumerate(self.cells) if it.cell_type == "markdown" and EXERCISES.search(it.source)
        ]
        return self.cells[: own[0]] if own else self.cells

    @property
    def tree(self) -> ast.Module:
        """The code after the setup cell, with IPython's magics as the calls they stand for."""
        return parse(cell.source for cell in self.cells[2:] if cell.cell_type == "code")


def load(path: Path) -> Notebook:
    return Notebook(path, nbformat.read(path, as_version=nbformat.NO_CONVERT))


def parse(sources) -> ast.Module:
    return ast.parse("\n".join(TransformerManager().transform_cell(source) for source in sources))


def lines_of(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def prose(markdown: str) -> str:
    """Markdown without code, in which `#` and `[` mean something else."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.DOTALL)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Notebook:
    return load(request.param)


@pytest.fixture(params=MODULES, ids=lambda path: path.stem)
def module(request) -> Path:
    return request.param


def test_there_is_something_to_check():
    assert NOTEBOOKS and MODULES


# Notebooks: the opening and the closing


def test_name_and_title_are_the_same_words(notebook):
    name, verb = notebook.path.stem, notebook.path.stem[3:].split("_")[0]
    assert re.fullmatch(r"\d\d(_[a-z0-9]+){2,}", name), f"{name} is not NN_verb_object"
    assert not re.fullmatch("about|introduction|overview|.*ing", verb), f"{name}: {verb!r} is no verb in the imperative"
    titles = [
        title
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for title in re.findall(r"^# (.+)$", prose(cell.source), flags=re.MULTILINE)
    ]
    assert len(titles) == 1 and notebook.cells[0].source.startswith(f"# {titles[0]}\n"), f"the one H1 opens: {titles}"
    words = "_".join(re.findall("[a-z0-9]+", titles[0].lower()))
    assert words == name[3:], f"{name} has the title {titles[0]!r}"


def test_the_opening(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    opens = re.findall(
        r"\]\(https://colab\.research\.google\.com/github/[^/]+/[^/]+/blob/[^/]+/([^)]*)\)", first.source
    )
    assert opens == [f"notebooks/{notebook.path.name}"], f"the Colab badge opens {opens}"
    lines = first.source.splitlines()
    assert lines.count(navigation(notebook.path)) == 1, f"no line {navigation(notebook.path)}"
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    assert len(rows) == 3 and rows[0] == ["You learn", "You need", "Hardware", "Time"], f"no card: {rows}"
    assert len(rows[2]) == 4 and all(rows[2]), f"the card has an empty field: {rows[2]}"
    assert re.search(r"\b(measured|estimated|published)\b", rows[2][3]), f"where is this time from? {rows[2][3]}"


def navigation(path: Path) -> str:
    place = NOTEBOOKS.index(path)
    previous = f"[previous]({NOTEBOOKS[place - 1].name})" if place else "previous"
    following = f"[next]({NOTEBOOKS[place + 1].name})" if place + 1 < len(NOTEBOOKS) else "next"
    return f"{previous} | [contents](../README.md#contents) | {following}"


def test_the_navigation_closes_the_notebook(notebook):
    last = notebook.cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.rstrip().splitlines()[-1] == navigation(notebook.path)


def test_the_setup_cell_is_the_same_everywhere(notebook):
    setup = notebook.cells[1]
    assert setup.cell_type == "code" and "COURSE_REPO" in setup.source
    assert setup.source == load(NOTEBOOKS[0]).cells[1].source, f"differs from {NOTEBOOKS[0].name}: copy it unchanged"


def test_utils_is_this_repository():
    import utils

    assert Path(utils.__file__).parent == ROOT / "utils"


def test_the_parameters_cell_comes_third_and_is_the_only_one(notebook):
    tagged = [place for place, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [2] and notebook.cells[2].cell_type == "code", f"cells tagged parameters: {tagged}"
    following = notebook.cells[3]
    assert following.cell_type == "markdown" and following.source.startswith("## "), "the first heading comes next"
    assert not re.search(r"^##", notebook.cells[0].source, flags=re.MULTILINE), "a heading before the setup"


def test_parameters_are_literals_with_reasons(notebook):
    source = notebook.cells[2].source
    comments = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for statement in ast.parse(source).body:
        line = ast.unparse(statement)
        assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name), (
            f"not `NAME = ...`: {line}"
        )
        name = statement.targets[0].id
        assert len(statement.targets) == 1 and re.fullmatch("[A-Z][A-Z0-9_]*", name), f"{name} is not UPPER_CASE"
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            pytest.fail(f"{line} is not a literal: papermill cannot show it, and it may depend on the machine")
        own = [text for row, text in comments if statement.lineno <= row <= statement.end_lineno]
        parameter = PARAMETER.match(own[0]) if len(own) == 1 else None
        assert parameter, f"{name} has no `# @param`: {own}"
        assert parameter["choices"] or parameter["type"], f"{name}: `# @param` says neither choices nor type"
        assert len(parameter["reason"].split()) >= 2, f"{name}: why this value? {own[0]}"
        if parameter["choices"]:
            choices = ast.literal_eval(parameter["choices"])
            if parameter["type"] == '{type:"raw"}':  # the form writes the text of a raw choice as it is
                choices = [ast.literal_eval(choice) for choice in choices]
            assert value in choices, f"{name}: {value!r} is none of its choices {choices}"


def test_each_parameter_stands_on_one_line(notebook):
    """Colab's form and `papermill --help-notebook` read lines: where the formatter wrapped one, shorten its reason."""
    body = ast.parse(notebook.cells[2].source).body
    wrapped = [ast.unparse(statement) for statement in body if statement.lineno != statement.end_lineno]
    assert not wrapped, f"over several lines: {', '.join(wrapped)}"


# Notebooks: what git holds


def test_nothing_of_a_run_is_kept(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, f"{cell.id} holds its output"
        assert set(cell.metadata) <= {"tags"}, f"{cell.id} holds {sorted(cell.metadata)}"
    assert "widgets" not in notebook.content.metadata, "the notebook holds the state of widgets"


def test_format_and_cell_ids(notebook):
    content = notebook.content
    assert (content.nbformat, content.nbformat_minor) == (4, 5)
    assert content.metadata.get("kernelspec", {}).get("language") == "python"
    ids = [cell.get("id", "") for cell in notebook.cells]
    for name in ids:
        assert re.fullmatch("[a-z]+[0-9]*(-[a-z0-9]+)*", name), f"{name!r} does not name the cell: lowercase words"
        assert not re.fullmatch("[0-9a-f]{8}", name), f"{name!r} was drawn by chance: name the cell"
    twice = {name for name in ids if ids.count(name) > 1}
    assert not twice, f"ids used twice: {twice}"
    nbformat.validate(content)  # last: it repairs ids, and only warns


def test_every_code_cell_parses(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            try:
                parse([cell.source])
            except SyntaxError as error:
                pytest.fail(f"{cell.id}: {error}")


# Notebooks: the code


def test_number_and_length_of_code_cells(notebook):
    number = sum(cell.cell_type == "code" for cell in notebook.lesson)
    assert number in CODE_CELLS, f"{number} code cells, not {CODE_CELLS.start} to {CODE_CELLS.stop - 1}"
    longest = max(notebook.code, key=lambda cell: lines_of(cell.source))
    assert lines_of(longest.source) <= MOST_LINES, f"{longest.id} has {lines_of(longest.source)} lines"
    over = [cell.id for cell in notebook.code if lines_of(cell.source) > LONG_LINES]
    share = len(over) / len(notebook.code)
    assert share <= LONG_SHARE, f"{share:.0%} of the code cells have over {LONG_LINES} lines: {over}"


def test_the_median_code_cell_is_short(notebook):
    lengths = sorted(lines_of(cell.source) for cell in notebook.code)
    assert statistics.median(lengths) <= MEDIAN_LINES, f"median over {MEDIAN_LINES} lines: {lengths}"


def test_no_branch_for_tests_or_platforms(notebook):
    for node in ast.walk(notebook.tree):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            assert not isinstance(node.test, ast.Constant), f"always or never true: {ast.unparse(node)[:80]}"
        name = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None) or ""
        assert not SWITCHES.search(name), f"{name} switches on a test or a platform: use a parameter, or utils"
    modules = {name.split(".")[0] for name in imported(notebook.tree)}
    assert "google" not in modules, "only the setup cell and utils.environment ask for Colab"


def test_no_commented_out_code(notebook):
    code = (ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.Assert, ast.Return)
    for cell in notebook.code:
        for line in (line.strip() for line in cell.source.splitlines()):
            try:
                statements = ast.parse(line.lstrip("# ")).body if line.startswith("#") else []
            except SyntaxError:  # words, as it should be
                continue
            found = [node for node in statements if isinstance(node, code) or isinstance(node_value(node), ast.Call)]
            assert not found, f"{cell.id} holds commented-out code: {line}"


def node_value(node: ast.AST) -> ast.AST | None:
    return node.value if isinstance(node, ast.Expr) else None


def test_no_prompt_and_no_secret(notebook):
    for node in ast.walk(notebook.tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            assert name not in PROMPTS, f"{ast.unparse(node)} waits for an answer that a headless run never gives"
    for cell in notebook.cells:
        assert "%store" not in cell.source, f"{cell.id}: state passes through files, not through the kernel"
        for pattern in (SECRETS, HASH):
            assert not pattern.search(cell.source), f"{cell.id} holds what looks like a secret, or a commit"


def test_models_are_loaded_safely(notebook):
    assert not unsafe_loads(notebook.tree)


# Helpers


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported anywhere in the code: `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def unsafe_loads(tree: ast.AST) -> list[str]:
    """Say which calls could run a repository's code, or read a pickle.

    An adapter and a generation config hold no code. Whatever else has `from_pretrained` says trust_remote_code=False,
    and if it loads weights, use_safetensors=True.
    """
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if given.get("trust_remote_code", "False") != "False":
            found.append(f"trusts remote code: {ast.unparse(call)}")
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "from_pretrained":
            continue
        owner = ast.unparse(call.func.value).split(".")[-1]
        if owner in ("PeftModel", "PeftConfig", "GenerationConfig"):
            continue
        if "trust_remote_code" not in given:
            found.append(f"no trust_remote_code=False: {ast.unparse(call)}")
        if re.search("Model|For", owner) and given.get("use_safetensors") != "True":
            found.append(f"no use_safetensors=True: {ast.unparse(call)}")
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_a_helper_loads_safely(module):
    assert not unsafe_loads(tree_of(module))


def test_a_helper_is_short(module):
    lines = [line.strip() for line in module.read_text(encoding="utf-8").splitlines()]
    size, limit = sum(line != "" and not line.startswith("#") for line in lines), MODULE_LINES_OF.get(module.stem)
    assert size <= (limit or MODULE_LINES), f"{module.name}: {size} lines of code and docstring; divide it by topic"


def test_a_helper_is_documented(module):
    tree = tree_of(module)
    assert ast.get_docstring(tree), f"{module.name} does not say what it does and leaves out"
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, (*functions, ast.ClassDef)) and node.name[0] != "_"]
    for owner in [node for node in public if isinstance(node, ast.ClassDef)]:
        public += [node for node in owner.body if isinstance(node, functions) and node.name[0] != "_"]
    missing = [f"{node.name} (line {node.lineno})" for node in public if not ast.get_docstring(node)]
    assert not missing, f"{module.name}: no docstring for {', '.join(missing)}"


def test_a_helper_imports_what_it_may(module):
    tree = tree_of(module)
    names = imported(tree)
    assert not any(name.endswith(".*") for name in names), f"{module.name}: a star import"
    outside = {name.split(".")[0] for name in names} & {"tests", "benchmarks", "notebooks"}
    assert not outside, f"{module.name} imports {outside}: nothing imports these"
    siblings = {name.split(".")[1] for name in names if name.startswith("utils.")}
    allowed = (
        {path.stem for path in MODULES} if module.stem == "course" else SHARED | MAY_IMPORT.get(module.stem, set())
    )
    assert siblings <= allowed, (
        f"{module.name} imports {sorted(siblings - allowed)}, see DESIGN: what may depend on what"
    )


def test_only_environment_reads_environment_variables(module):
    reads = [node for node in ast.walk(tree_of(module)) if getattr(node, "attr", None) in ("environ", "getenv")]
    assert not reads or module.stem in ("environment", "course"), f"{module.name}, line {reads[0].lineno}"


def test_importing_the_helpers_does_nothing_else():
    """No heavy library, no environment variable, no thread and no word: in a process of its own."""
    script = """
import importlib, json, os, sys, threading
before = dict(os.environ)
for name in sys.argv[1:]:
    importlib.import_module("utils." + name)
changed = sorted(name for name in before.keys() | os.environ if before.get(name) != os.environ.get(name))
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"loaded": loaded, "changed": changed, "threads": threading.active_count()}))
"""
    names = [path.stem for path in MODULES if path.stem != "fused_orpo"]  # a class needs its base when it is defined
    run = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == "" and len(run.stdout.splitlines()) == 1, f"an import prints: {run.stdout}{run.stderr}"
    found = json.loads(run.stdout)
    assert "utils" in found["loaded"]
    assert not HEAVY & set(found["loaded"]), f"import {sorted(HEAVY & set(found['loaded']))} where they are used"
    assert not found["changed"] and found["threads"] == 1, found


def test_the_examples_of_a_helper_are_true(module):
    result = doctest.testmod(importlib.import_module(f"utils.{module.stem}"))
    assert result.failed == 0, f"{module.name}: {result.failed} of {result.attempted} examples fail, see above"


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    tests = [test for path in MODULES for test in finder.find(importlib.import_module(f"utils.{path.stem}"))]
    examples = [example for test in tests for example in test.examples if doctest.SKIP not in example.options]
    assert len(examples) >= 3, "the docstrings of utils/ hold next to no example that runs"


# Documents


@cache
def course_files() -> list[str]:
    """Paths of what git tracks, or would track after `git add .`."""
    if not (ROOT / ".git").exists():
        pytest.skip("a downloaded copy has no git that says which files belong to it")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def markdown_of(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in load(path).cells if cell.cell_type == "markdown")


def anchors(markdown: str) -> set[str]:
    """What `#...` may name: every heading in the form that GitHub and Jupyter give it, and explicit anchors."""
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', markdown))
    for heading in re.findall(
        r"^#{1,6} (.+?)\s*#*$", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL), re.MULTILINE
    ):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found |= {slug, text.replace(" ", "-")}
    return found


DOCUMENTS = ["README.md", "CONTRIBUTING.md"] + [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb"))
    if ".ipynb_checkpoints" not in path.parts
]


def broken_links(document: Path, markdown: str) -> list[str]:
    broken = []
    links = re.findall(r"\]\(\s*<?([^)\s>]+)[^)]*\)", prose(markdown))
    links += re.findall(r'(?:src|href)="([^"]+)"', prose(markdown))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or ROOT not in (target, *target.parents):
            broken.append(f"{link}: there is no {name}")
        elif anchor and target.suffix in (".md", ".ipynb"):
            text = markdown if target == document else markdown_of(target)
            if anchor not in anchors(text):
                broken.append(f"{link}: {target.name} has no heading {anchor!r}")
    return broken


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_resolve(name):
    assert (ROOT / name).exists(), f"{name} is missing"
    broken = broken_links(ROOT / name, markdown_of(ROOT / name))
    assert not broken, f"{name}: {'; '.join(broken)}"


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *DOCUMENTS[2:], *(f"utils/{p.name}" for p in MODULES)]
)
def test_notebooks_that_are_named_exist(name):
    """`notebook 05` and `05_merge_and_push`, wherever a learner reads them."""
    assert (ROOT / name).exists(), f"{name} is missing"
    text = (ROOT / name).read_text(encoding="utf-8")
    stems = {path.stem for path in NOTEBOOKS}
    named = set(re.findall(r"\b(\d\d_[a-z][a-z0-9_]*)\b(?!\.(?:svg|webp|png))", text))
    solutions = {f"{stem}_solutions" for stem in stems}
    assert named <= stems | solutions, f"{name} names {sorted(named - stems - solutions)}"
    numbers = set(re.findall(r"\b[Nn]otebooks? (\d\d)\b", text))
    assert numbers <= {stem[:2] for stem in stems}, f"{name} names notebooks {sorted(numbers)}"


def readme_tree(readme: str) -> list[str]:
    """The paths that the annotated tree names: the fenced block with a line that begins with `notebooks/`.

    Each line is indented by two spaces for each folder it lies in, and begins with one name or several, separated by
    ` · `; folders end with `/`.
    """
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    tree = next((block for block in blocks if re.search("^notebooks/", block, flags=re.MULTILINE)), None)
    assert tree, "README.md has no annotated tree: a fenced block with a line that begins with notebooks/"
    paths, parents = [], [""]
    for line in filter(str.strip, tree.splitlines()):
        indent, names = re.match(r"( *)(\S+(?: · \S+)*)", line).groups()
        depth = len(indent) // 2
        assert len(indent) % 2 == 0 and depth < len(parents), f"not two spaces deeper than its folder: {line!r}"
        found = [parents[depth] + name for name in names.split(" · ")]
        paths += found
        parents = parents[: depth + 1] + [found[-1]] * found[-1].endswith("/")
    return paths


def tree_problems(named: list[str], files: list[str]) -> list[str]:
    problems = [f"names {path}, which does not exist" for path in named if not any(ROOT.glob(path.rstrip("/")))]
    problems += [
        f"names {path}, a folder, without its slash" for path in named if (ROOT / path).is_dir() and path[-1] != "/"
    ]
    problems += [f"names {path} twice" for path in {path for path in named if named.count(path) > 1}]
    wanted = {
        name for name in files if fnmatch.fnmatch(name, "utils/*") or re.fullmatch(r"notebooks/\d\d_.*\.ipynb", name)
    }
    problems += [f"does not name {name}" for name in sorted(wanted - set(named))]
    tops = {path.split("/")[0] for path in named}
    return problems + [f"does not name {top}" for top in sorted({name.split("/")[0] for name in files} - tops)]


def test_the_tree_in_the_readme_is_the_tree():
    files = course_files()
    assert (ROOT / "README.md").exists(), "README.md is missing"
    problems = tree_problems(readme_tree((ROOT / "README.md").read_text(encoding="utf-8")), files)
    assert not problems, f"README.md's tree {'; '.join(problems)}"


def test_no_forbidden_word_and_no_secret_in_any_file():
    found = []
    for name in course_files():
        try:
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:  # a picture
            continue
        for number, line in enumerate(lines, start=1):
            words = [word for word in FORBIDDEN if word in line] + [match[0][:6] for match in SECRETS.finditer(line)]
            words += [match[0][:6] for match in HASH.finditer(line) if name.startswith("utils/")]
            found += [f"{name}:{number} has {word!r}" for word in words]
    assert not found, "; ".join(found)


# The checks can fail: each fault below is put into a copy of a sound notebook.


def edit(place: int, old: str, new: str):
    def fault(notebook):
        cell = notebook.cells[place]
        assert old in cell.source, f"the fault cannot be made: no {old!r} in {cell.id}"
        cell.source = cell.source.replace(old, new, 1)

    return fault


def append(source: str, kind: str = "code", place: int = -1, **fields):
    """A fault: one more cell, before the last one."""

    def fault(notebook):
        make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        notebook.cells.insert(place, make(source, id="added", **fields))

    return fault


def set_metadata(place: int, **metadata):
    return lambda notebook: notebook.cells[place].metadata.update(metadata)


def set_id(name: str):
    return lambda notebook: notebook.cells[4].update(id=name)


def set_parameters(source: str):
    return lambda notebook: notebook.cells[2].update(source=source)


def same_id(notebook):
    notebook.cells[4].id = notebook.cells[5].id


def without_id(notebook):
    del notebook.cells[4]["id"]


def older_format(notebook):
    notebook.content.nbformat_minor = 4


def no_language(notebook):
    del notebook.content.metadata.kernelspec["language"]


def widget_state(notebook):
    notebook.content.metadata["widgets"] = {}


def no_closing(notebook):
    notebook.cells.pop()


def time_of_unknown_origin(notebook):
    notebook.cells[0].source = re.sub("measured|estimated|published", "known", notebook.cells[0].source)


def few_cells(notebook):
    del notebook.cells[5:-1]


def long_cells(lines: int, times: int, place: int = 5):
    """A fault: more cells, in the middle of the lesson."""

    def fault(notebook):
        for number in range(times):
            cell = nbformat.v4.new_code_cell("\n".join(["value = 1"] * lines), id=f"long-{number}")
            notebook.cells.insert(place, cell)

    return fault


def one_cell_too_many(notebook):
    number = sum(cell.cell_type == "code" for cell in notebook.lesson)
    long_cells(1, CODE_CELLS.stop - number)(notebook)


FAULTS = [
    (test_name_and_title_are_the_same_words, edit(0, "# ", "# About how to ")),
    (test_name_and_title_are_the_same_words, append("# Another title", "markdown")),
    (test_the_opening, edit(0, "/notebooks/", "/notebooks/other_")),
    (test_the_opening, edit(0, " | [contents]", " | contents")),
    (test_the_opening, edit(0, "../README.md#contents", "../README.md")),
    (test_the_opening, edit(0, "| Hardware |", "| GPU |")),
    (test_the_opening, time_of_unknown_origin),
    (test_the_navigation_closes_the_notebook, no_closing),
    (test_the_navigation_closes_the_notebook, edit(-1, "[contents]", "[Contents]")),
    (test_the_navigation_closes_the_notebook, append("The end.", "markdown", place=10_000)),
    (test_the_setup_cell_is_the_same_everywhere, edit(1, "import sys", "import sys, os")),
    (test_the_parameters_cell_comes_third_and_is_the_only_one, append("RATE = 1", metadata={"tags": ["parameters"]})),
    (test_the_parameters_cell_comes_third_and_is_the_only_one, set_metadata(2, tags=[])),
    (test_the_parameters_cell_comes_third_and_is_the_only_one, append("import os", place=3)),
    (test_the_parameters_cell_comes_third_and_is_the_only_one, append("A word.", "markdown", place=3)),
    (test_parameters_are_literals_with_reasons, edit(2, " = ", ' = str("x") + ')),
    (test_parameters_are_literals_with_reasons, edit(2, "# @param", "# param")),
    (test_parameters_are_literals_with_reasons, edit(2, " = ", "_lower = ")),
    (test_parameters_are_literals_with_reasons, set_parameters("A = 1  # @param [1]")),
    (test_parameters_are_literals_with_reasons, set_parameters("A = 1  # @param why so")),
    (test_parameters_are_literals_with_reasons, set_parameters('A = 1  # @param ["b", "c"] the letter of it')),
    (test_parameters_are_literals_with_reasons, set_parameters("import os")),
    (test_each_parameter_stands_on_one_line, set_parameters('A = (\n    1  # @param {type:"raw"} why\n)')),
    (test_nothing_of_a_run_is_kept, append("1", execution_count=3)),
    (test_nothing_of_a_run_is_kept, append("1", outputs=[nbformat.v4.new_output("stream", text="1")])),
    (test_nothing_of_a_run_is_kept, set_metadata(4, executionInfo={"elapsed": 3})),
    (test_nothing_of_a_run_is_kept, widget_state),
    (test_format_and_cell_ids, older_format),
    (test_format_and_cell_ids, no_language),
    (test_format_and_cell_ids, without_id),
    (test_format_and_cell_ids, same_id),
    (test_format_and_cell_ids, set_id("deadbeef")),
    (test_format_and_cell_ids, set_id("3f2a9c1e")),
    (test_format_and_cell_ids, set_id("Cell_4")),
    (test_every_code_cell_parses, append("def f(:\n    pass")),
    (test_number_and_length_of_code_cells, few_cells),
    (test_number_and_length_of_code_cells, long_cells(1, 30)),
    (test_number_and_length_of_code_cells, one_cell_too_many),
    (test_number_and_length_of_code_cells, long_cells(41, 1)),
    (test_number_and_length_of_code_cells, long_cells(21, 5)),
    (test_the_median_code_cell_is_short, long_cells(MEDIAN_LINES + 1, 30)),
    (test_no_branch_for_tests_or_platforms, append("if False:\n    print(1)")),
    (test_no_branch_for_tests_or_platforms, append("rows = 3 if SMOKE else 4")),
    (test_no_branch_for_tests_or_platforms, append("IN_COLAB = True")),
    (test_no_branch_for_tests_or_platforms, append('import os\nfast = os.environ.get("FAST")')),
    (test_no_branch_for_tests_or_platforms, append("from os import environ")),
    (test_no_branch_for_tests_or_platforms, append("from google.colab import drive")),
    (test_no_branch_for_tests_or_platforms, append("import sys\nlinux = sys.platform")),
    (test_no_commented_out_code, append("# model = load(base)")),
    (test_no_commented_out_code, append("rows = 1\n# print(rows)")),
    (test_no_commented_out_code, append("# import os")),
    (test_no_prompt_and_no_secret, append('name = input("Your name? ")')),
    (test_no_prompt_and_no_secret, append("import wandb\nwandb.login()")),
    (test_no_prompt_and_no_secret, append("%store rows")),
    (test_no_prompt_and_no_secret, append('token = "hf_' + "a1B2" * 9 + '"')),
    (test_no_prompt_and_no_secret, append('key = "' + "0a1b" * 10 + '"')),
    (test_models_are_loaded_safely, append("AutoTokenizer.from_pretrained(base)")),
    (test_models_are_loaded_safely, append("AutoConfig.from_pretrained(base, trust_remote_code=True)")),
    (test_models_are_loaded_safely, append("LlamaForCausalLM.from_pretrained(base, trust_remote_code=False)")),
    (test_models_are_loaded_safely, append("load(base, trust_remote_code=answer)")),
]


def complaint(check, notebook: Notebook) -> str | None:
    """What a check says of a notebook; None if it passes."""
    try:
        check(notebook)
    except (AssertionError, pytest.fail.Exception) as error:
        return f"{check.__name__}: {error}"
    return None


@pytest.mark.parametrize(
    ("check", "fault"), FAULTS, ids=[f"{check.__name__[5:]}-{number}" for number, (check, _) in enumerate(FAULTS)]
)
def test_a_fault_in_a_notebook_is_found(check, fault):
    sound = next((path for path in NOTEBOOKS if complaint(check, load(path)) is None), None)
    if sound is None:
        pytest.skip("no notebook passes this check, as the check itself reports")
    broken = load(sound)
    fault(broken)
    assert complaint(check, broken)


def test_the_cells_of_exercises_are_not_counted_and_all_others_are():
    check = test_number_and_length_of_code_cells
    taught = [it for it in map(load, NOTEBOOKS) if len(it.lesson) < len(it.cells) and complaint(check, it) is None]
    assert taught, "no notebook has exercises and passes this check"
    sound = taught[0]
    long_cells(1, CODE_CELLS.stop, place=-1)(sound)
    assert complaint(check, sound) is None
    for cell in sound.cells:
        cell.source = EXERCISES.sub("## By yourself", cell.source)
    assert "code cells, not 10 to 25" in complaint(check, sound)


def test_every_check_of_a_notebook_has_a_fault():
    checks = {test for name, test in globals().items() if name.startswith("test_")}
    takes_notebook = {
        test for test in checks if test.__code__.co_varnames[: test.__code__.co_argcount] == ("notebook",)
    }
    assert takes_notebook == {check for check, _ in FAULTS}


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False, use_safetensors=True)", 0),
        ("PeftModel.from_pretrained(model, adapter)", 0),
        ("AutoPeftModelForCausalLM.from_pretrained(adapter)", 2),
        ("transformers.AutoModelForCausalLM.from_pretrained(base)", 2),
    ],
)
def test_unsafe_loads_are_told_from_safe_ones(source, number):
    assert len(unsafe_loads(ast.parse(source))) == number


def test_a_broken_link_is_found():
    text = "# A start!\n[a](utils/none.py) ![b](none.svg) [c](#a-start) [d](#the-end) [e](https://x.org/none)"
    broken = broken_links(ROOT / "CONTRIBUTING.md", text)
    assert [link.split(":")[0] for link in broken] == ["utils/none.py", "none.svg", "#the-end"]


def test_a_wrong_tree_is_found():
    tree = "README.md   text\nnotebooks/\n  none.ipynb  x\nutils/  helpers\n  badges.py · course.py  two\nLICENSE\n"
    named = readme_tree(f"```\n{tree}```\n")
    assert named == [
        "README.md",
        "notebooks/",
        "notebooks/none.ipynb",
        "utils/",
        "utils/badges.py",
        "utils/practice/course.py",
        "LICENSE",
    ]
    files = ["LICENSE", "Makefile", "utils/badges.py", "utils/figures.py"]
    problems = tree_problems([name for name in named if name != "README.md"], files)
    assert problems == [
        "names notebooks/none.ipynb, which does not exist",
        "does not name utils/figures.py",
        "does not name Makefile",
    ]
