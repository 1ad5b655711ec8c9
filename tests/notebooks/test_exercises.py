"""The exercises: untried they say so and stop nothing, a wrong answer fails with what to look at, the solution passes.

A solution stands in `notebooks/solutions/`, in a cell with the id of the exercise's cell. Untried is what every run of
the course is. The rest is seen in one more run of each notebook: behind each exercise come a wrong attempt and the
solution, as a learner would run the cell again and again.
"""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from utils.data import sources
from utils.exercises import checks as exercises
from utils.exercises import data_exercises, training_exercises
from utils.practice import course as runner
from utils.practice.hub import PracticeHub

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = runner.select()
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
NUMBERS = [path.name[:2] for path in SOLUTIONS]
UNTRIED = re.compile(r"[a-z]\w* = None  # \S")  # how the cell of an exercise begins, with what to give
FOLDED = r"<details><summary>{}</summary>\n\n\S.*?\n\n</details>"
WRONG = {  # of each exercise: what stands in the place of its first line, and what the message must say
    # 00
    "size": ('gigabytes = {"bf16": 128.5, "4 bits": 4}', "billions of bits"),
    "cards": (
        'choices = dict.fromkeys(data_exercises.CARDS, ("l4", "bfloat16"))',
        "V100: not bfloat16, .* has no bf16 units",
    ),
    "longest": ("longest = 1024", r"1024 tokens need 9\.\d\d GB.* but so would 64 tokens more"),
    # 01
    "own-mean": ("own_mean = -4.228", "is the sum: it falls with every token"),
    "own-beta": ("own_beta = odds_term / nll", "the other way round: beta multiplies the odds term"),
    "own-loss": (
        "own_loss = lambda chosen, rejected: -torch.nn.functional.logsigmoid(rejected - chosen)",
        "The value of your loss is .* Mind both signs",
    ),
    # 02
    "words": ("prompt_words = 49", r"49 words have 45 runs; .* 40 of 50 are shared: 0\.8, which is below 0\.9"),
    "source": (
        'handbook = sources.Source("handbook", "you/handbook-pairs", {"question": "prompt", "better": "chosen", '
        '"worse": "rejected"}, "stars", at_least=4, unless="bot")',
        "the wrong way round",
    ),
    "filter": (
        "keep = lambda line: line.chosen_tokens < 2 * line.rejected_tokens",
        "chosen with 20 tokens, rejected with 10: .* so it should stay",
    ),
    # 03
    "steps": ("optimizer_steps = 188", "never reaches over the end of an epoch"),
    "trainable": (
        "trained_weights = sum(it.numel() for it in model.parameters() if it.requires_grad)",
        "LoRA beside all matrices",
    ),
    "window": ("shortest_window = 5", r"0 of 3\d\d pairs fit into 5 tokens"),
    # 04
    "which-run": ('answer = {letter: "healthy" for letter in "ABCDEFG"}', "Not yet right: .* is not 'healthy'"),
    "how-many-rows": ("held_out = 200", r"200 rows know it within 6\.\d points"),
    # 05
    "lost": ("smallest_update = 0.0398", "shares of the block's largest weight"),
    "merge-by-hand": ("merge = lambda weight, A, B, alpha, rank: weight + B @ A", "The update is not scaled"),
    "files": ('pushed = ["adapter_model.safetensors", "optimizer.pt"]', "optimizer.pt is a pickle"),
    # 06
    "find-flaw": (
        'flaws = {letter: "chance" for letter in "ABCDE"}',
        "E is not a case of 'chance': look at what a sum",
    ),
    "flips": (
        "flips = [((scores[one].margin > 0) & ~(scores[two].margin > 0)).sum() "
        "for one, two in (('base', 'adapter'), ('adapter', 'base'))]",
        "are the other way round",
    ),
    "own-accuracy": ("accuracy = lambda table, how: (table.margin > 0).mean()", "loses against a rejected one of 4"),
    # 07
    "system-cost": (
        "system_cost = len(tokenizer('Answer in one short sentence.')['input_ids'])",
        "The template puts a header",
    ),
    "file-size": ("megabytes = merged.skeleton.num_parameters() / 1e6", "leaves out the scales"),
    "stop-at-word": ("until = lambda grown, word: list(grown)[-1].split(word)[0]", "would write on for nothing"),
    # 08
    "predict-losses": (
        'falls = {"A": {"SFT", "DPO", "ORPO"}, "B": {"DPO", "ORPO"}, "C": {"DPO"}}',
        r"A: DPO's loss does not fall, from 0\.693 to 0\.693",
    ),
    "reward-by-hand": (
        "reward_margin = (lambda it, was: DPO_BETA * (it.margin - was.margin)["
        'evaluate.implicit_margins(it, was, 1).abs().idxmax()])(tracks["DPO"].last, before)',
        "margin of the means",
    ),
    "share-budget": (
        "stages = [round(sft_steps / 4), round(pair_steps / 4)]",
        "steps of DPO spend .* 75 % are its part",
    ),
    # 09
    "count-pass": ('counted = {"distinct": 720, "repeated": 400, "padding": 400}', "400 are both prompts whole"),
    "other-roof": ('share = parts["thin matrix of LoRA"][0] * 1555e9', "divide them by the matrix rate"),
    "write-mask": (
        "mask = lambda *parts: [[other <= place for other in range(sum(parts))] for place in range(sum(parts))]",
        "the rejected answer must not read the chosen one",
    ),
}

QUICK = {"01": {"STEPS": 4}}  # the exercises of 01 ask nothing of its runs


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def cells(path: Path) -> dict[str, str]:
    return {cell["id"]: cell.source for cell in read(path).cells if cell.cell_type == "code"}


def exercises_in(path: Path) -> list[str]:
    return [name for name, source in cells(path).items() if UNTRIED.match(source)]


def notebook_of(number: str) -> Path:
    return next(path for path in NOTEBOOKS if path.name[:2] == number)


def error_in(outputs: list) -> str | None:
    return next((f"{out['ename']}: {out['evalue']}" for out in outputs if out["output_type"] == "error"), None)


def section(path: Path, heading: str) -> str:
    """The markdown under a heading of the second level, up to the next one."""
    markdown = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL)
    assert found, f"{path.name} has no heading ## {heading}"
    return found[1]


# --- what stands in the notebooks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_exercises_with_solutions_and_folded_hints(path):
    names, own = exercises_in(path), section(path, "On your own")
    assert len(names) in (2, 3), f"{path.name} has {len(names)} exercises"
    solved = ROOT / "notebooks" / "solutions" / f"{path.stem}_solutions.ipynb"
    assert solved.exists(), f"{solved.name} is missing"
    assert list(cells(solved)) == names
    assert set(names) <= set(WRONG), "a wrong attempt is missing in WRONG"
    assert len(re.findall("^### ", own, re.MULTILINE)) == len(names)
    assert len(re.findall(FOLDED.format("Hint"), own, re.DOTALL)) == len(names)
    for name in names:
        assert re.search(r"\n(\w+\.)?check\w*\(", cells(path)[name]), f"{name} calls no check"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_three_questions_with_folded_answers_come_before_one_goes_on(path):
    asked = section(path, "Before you go on")
    folded = re.findall(r"\?(?:\*\*)?\n\n" + FOLDED.format("Answer"), asked, re.DOTALL)
    assert len(folded) == 3 == asked.count("<details>"), f"{path.name} has {len(folded)} questions with an answer"


def test_no_two_exercises_have_one_name():
    names = [name for path in SOLUTIONS for name in cells(path)]
    assert names and len(names) == len(set(names))


# --- what the notebooks say when they are run ------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_every_exercise_begins_untried(number, course):
    """In the executed course each exercise says that it was not tried, and the notebook went on to its end."""
    outputs = {cell["id"]: cell.get("outputs", []) for cell in read(course[1] / notebook_of(number).name).cells}
    for name in exercises_in(notebook_of(number)):
        assert "ot tried yet" in json.dumps(outputs[name]), name


@pytest.fixture
def tried(course, tmp_path, monkeypatch):
    """Run a notebook on a copy of what the course made, Hub and all, with each exercise tried twice more."""

    def run_tried(number: str) -> dict[str, list]:
        import nbclient

        own = tmp_path / number
        shutil.copytree(course[1], own, ignore=shutil.ignore_patterns("home", "*.ipynb"))
        notebook, solved = read(notebook_of(number)), cells(SOLUTIONS[NUMBERS.index(number)])
        added = []
        for cell in notebook.cells:
            added.append(cell)
            if "parameters" in cell.metadata.get("tags", []):
                given = {"ARTIFACTS": str(own)} | runner.PARAMETERS.get(number, {}) | QUICK.get(number, {})
                cell.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
            if cell["id"] in solved:
                attempt = cell.source.partition("\n")
                tries = {"wrong": WRONG[cell["id"]][0] + "\n" + attempt[2], "right": solved[cell["id"]]}
                added += [nbformat.v4.new_code_cell(code, id=f"{cell['id']}-{how}") for how, code in tries.items()]
        notebook.cells = added
        with PracticeHub(own / "hub") as hub:
            for name, value in runner.practice_environment(hub.url, own / "home").items():
                monkeypatch.setenv(name, value)
            kernel = {"metadata": {"path": str(ROOT)}}
            nbclient.NotebookClient(notebook, timeout=180, allow_errors=True, resources=kernel).execute()
        return {cell["id"]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    return run_tried


@pytest.mark.parametrize("number", NUMBERS)
def test_a_wrong_answer_teaches_and_the_solution_passes(number, tried):
    outputs = tried(number)
    failed = {name: error_in(given) for name, given in outputs.items() if error_in(given)}
    assert set(failed) == {f"{name}-wrong" for name in exercises_in(notebook_of(number))}, failed
    for name in exercises_in(notebook_of(number)):
        message = failed[f"{name}-wrong"]
        assert message.startswith("AssertionError") and re.search(WRONG[name][1], message, re.DOTALL), message
        assert "ight" in "".join(out.get("text", "") for out in outputs[f"{name}-right"]), name


# --- the mechanism ----------------------------------------------------------------------------------------------------


def refused(check, *given) -> str:
    with pytest.raises(AssertionError) as error:
        check(*given)
    return str(error.value)


def test_an_answer_that_is_none_is_told_and_one_that_is_right_is_told(capsys):
    @exercises.exercise("a number of legs")
    def check(answer, right, of="an ant"):
        """Say how many legs."""
        assert answer == right, f"{of} has more"
        return f"Right: {answer}."

    check(None, 6)
    check(6, 6)
    assert capsys.readouterr().out == "Not tried yet: give a number of legs.\nRight: 6.\n"
    with pytest.raises(AssertionError, match="a bee has more"):
        check(2, 6, of="a bee")
    assert check.__doc__ == "Say how many legs."


@pytest.mark.parametrize("answer", ["8", True, float("nan"), float("inf"), [8], {}, 1 + 2j])
def test_what_is_no_number_is_named(answer):
    assert refused(exercises.number, answer, "The size") == f"The size is a number, not {answer!r}."


def test_a_number_is_one_of_any_library_and_may_have_to_be_whole_or_large_enough():
    import numpy as np

    assert exercises.number(np.int64(3), "It", whole=True) == 3 and exercises.number(np.float32(0.5), "It") == 0.5
    assert exercises.number(4.0, "It", whole=True) == 4
    assert refused(lambda: exercises.number(2.5, "It", whole=True)) == "It is a whole number, not 2.5."
    assert refused(lambda: exercises.number(0, "It", least=1)) == "It is 1 or more, not 0."


@pytest.mark.parametrize(
    ("answer", "right", "told"),
    [
        (16, 8, "The size is not 16, which is 2 times too large. Count bytes."),
        (1, 8, "The size is not 1, which is 8 times too small. Count bytes."),
        (8.5, 8, "The size is not 8.5, which is too large. Count bytes."),
        (-8, 8, "The size is not -8, which is too small. Count bytes."),
        (1, 0, "The size is not 1, which is too large. Count bytes."),
        ("8", 8, "The size is a number, not '8'."),
    ],
)
def test_a_number_that_is_off_is_told_by_how_much(answer, right, told):
    assert refused(exercises.close, answer, right, "The size", 0.02, "Count bytes.") == told
    assert exercises.close(8.1, 8, "The size") == 8.1
    assert refused(lambda: exercises.close(1001, 1000, "The size", relative=0)).endswith("too large.")


def test_a_choice_is_one_of_the_names():
    assert exercises.choice("t4", {"t4": 1, "l4": 2}, "The card") == "t4"
    for answer in ("T4", 4, ["t4"], None):
        assert refused(exercises.choice, answer, ["t4", "l4"], "The card").startswith("The card is one of 't4', 'l4', ")


def test_a_function_that_fails_is_told_for_which_input_and_with_what_error():
    doubled = exercises.function(lambda it, times=2: times * it["value"], "Your function")
    assert doubled({"value": 4}) == 8
    told = refused(doubled, {"valeu": 4})
    assert told == "Your function fails for ({'valeu': 4}) with KeyError: 'value'"
    assert refused(lambda: doubled({}, times=3)) == "Your function fails for ({}, times=3) with KeyError: 'value'"
    assert "by its name without parentheses, not 3" in refused(exercises.function, 3, "Your function")


# --- the checks: the usual slips, each with its own words ---------------------------------------------------------


@pytest.fixture(scope="module")
def llama3():
    from transformers import AutoConfig

    from utils.train import base as bases
    from utils.train import memory

    return bases.skeleton(AutoConfig.for_model("llama", **memory.LLAMA_3_8B))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (16, 'a dictionary with "bf16" and "4 bits", not 16'),
        ({"bf16": 16.06}, "a dictionary"),
        ({"bf16": "16", "4 bits": 4}, "The size in bf16 is a number, not '16'"),
        ({"bf16": 128.5, "4 bits": 5.6}, "billions of bits"),
        ({"bf16": 32.1, "4 bits": 5.6}, "2 times too large. bf16 has 16 bits"),
        ({"bf16": 16.06, "4 bits": 4.015}, "would be all weights in 4 bits"),
        ({"bf16": 16.06, "4 bits": 9.1}, "1.63 times too large. Half a byte"),
    ],
)
def test_sizes(answer, told, llama3, capsys):
    assert told in refused(data_exercises.check_size, answer, llama3)
    for small in (5.59, 5.70):  # without the scales, and with them
        data_exercises.check_size({"bf16": 16.06, "4 bits": small}, llama3)
    assert "16.1 GB, and 5.6 GB, of which 2.1 GB stay in bf16" in capsys.readouterr().out


CHOSEN = {"RTX 4090": ("l4", "bfloat16"), "V100": ("t4", "float16"), "RTX 3060": ("t4", "bfloat16")}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("l4", "dictionary of card and"),
        ({"V100": "t4"}, "dictionary of card and"),
        ({"V100": ("t4", "float16")}, "Without a profile so far: RTX 4090, RTX 3060"),
        (CHOSEN | {"V100": ("v100", "float16")}, "The profile of the V100 is one of 'cpu', 't4'"),
        (CHOSEN | {"V100": ("t4", "fp16")}, "The dtype of the V100 is one of"),
        (CHOSEN | {"V100": ("l4", "float16")}, "V100: not l4, which is for 23.7 GB"),
        (CHOSEN | {"RTX 3060": ("t4", "float16")}, "RTX 3060: not float16, for compute capability 8.6 has bf16 units"),
        (CHOSEN | {"RTX 3060": ("cpu", "bfloat16")}, "which is for a CPU"),
    ],
)
def test_cards(answer, told):
    assert told in refused(data_exercises.check_cards, answer)


def test_a_window_is_told_what_it_needs(llama3):
    from utils.train import recipes

    recipe = recipes.Recipe()
    assert "does not fit" not in (told := refused(data_exercises.check_longest, 1024, llama3, recipe)) and "64" in told
    assert "that does not fit" in refused(data_exercises.check_longest, 8192, llama3, recipe)
    assert "the nearest below is 960" in refused(data_exercises.check_longest, 1000, llama3, recipe)
    assert "a whole number, not 'long'" in refused(data_exercises.check_longest, "long", llama3, recipe)


def test_words(capsys):
    for similarity, right in ((0.8, 49), (0.9, 99)):
        data_exercises.check_words(right, similarity)
        assert "which is below" in refused(data_exercises.check_words, right - 1, similarity)
        assert f"but {right} words are, too" in refused(data_exercises.check_words, right + 1, similarity)
    assert "9 or more, not 3" in refused(data_exercises.check_words, 3, 0.9)


GIVEN = {
    "name": "handbook",
    "repository": "you/handbook-pairs",
    "columns": {"prompt": "question", "chosen": "better", "rejected": "worse"},
    "rating": "stars",
    "at_least": 4,
    "unless": "bot",
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"columns": {"prompt": "question"}}, "does not say where prompt, chosen and rejected are"),
        ({"columns": {"question": "prompt", "better": "chosen", "worse": "rejected"}}, "the wrong way round"),
        ({"rating": "score"}, "The rows have no column 'score'"),
        ({"rating": None, "at_least": None}, "takes a row that should be left out: 3.0 stars"),
        ({"at_least": 5}, "leaves out a row that should be taken: 4.0 stars"),
        ({"at_least": 3}, "takes a row that should be left out: 3.0 stars"),
        ({"unless": None}, "takes a row that should be left out: 5.0 stars, bot True"),
    ],
)
def test_sources(change, told, capsys):
    assert told in refused(data_exercises.check_source, sources.Source(**(GIVEN | change)))
    data_exercises.check_source(sources.Source(**GIVEN))
    assert "2 of 5 rows are taken" in capsys.readouterr().out
    assert "The answer is a sources.Source(...), not {" in refused(data_exercises.check_source, GIVEN)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda line: line.chosen_tokens <= 2 * line.rejected, "fails for (.*) with AttributeError"),
        (lambda line: line.rejected_tokens <= 2 * line.chosen_tokens, "chosen with 21 tokens, .* so it should go"),
        (lambda line: "yes", "returns 'yes' for chosen with 20 tokens"),
        (lambda line: None, "returns None"),
        (lambda line: line.row == 0 and line.chosen_tokens <= 2 * line.rejected_tokens, "with 8 .* with 9: .* stay"),
    ],
)
def test_filters(function, told, capsys):
    import pandas as pd

    lines = [("a", 0, 5.0, None, 3, 9, 9), ("a", 1, 5.0, None, 3, 8, 9), ("a", 2, 1.0, "score too low", 3, 90, 9)]
    columns = ["source", "row", "rating", "reason", "prompt_tokens", "chosen_tokens", "rejected_tokens"]
    ledger = pd.DataFrame(lines, columns=columns)
    assert re.search(told, refused(data_exercises.check_filter, function, ledger), re.DOTALL)
    data_exercises.check_filter(lambda line: line["chosen_tokens"] <= 2 * line["rejected_tokens"], ledger)
    assert capsys.readouterr().out == "Right: 2 of 2 pairs of the mix stay.\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (3000, "one step for each pair"),
        (63, "that is one epoch"),
        (186, "left over at the end of an epoch"),
        (188, "never reaches over the end"),
        (190, "too large. Divide 1000 by 16"),
        (187.5, "a whole number, not 187.5"),
        ("189", "not '189'"),
    ],
)
def test_steps(answer, told, capsys):
    assert told in refused(training_exercises.check_steps, answer, 1000, 16, 3)
    training_exercises.check_steps(189, 1000, 16, 3)
    assert "63 steps an epoch, the last one with 8 pairs, 189 in all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (212992, "one layer of 32"),
        (6815744 // 2, "two matrices"),
        (425984, "that is rank 1"),
        (671088640, "the frozen weights"),
        (8388608, "v_proj is narrower"),
        (41943040, "beside all matrices of a layer"),
        (7e6, "too large. Each matrix of m rows"),
    ],
)
def test_trainable_weights(answer, told, llama3, capsys):
    assert told in refused(training_exercises.check_trainable, answer, llama3, 16)
    training_exercises.check_trainable(6815744, llama3, 16)
    assert "in 32 layers with (4096, 4096) for q_proj and (1024, 4096) for v_proj" in capsys.readouterr().out


def test_a_base_without_these_projections_is_told(capsys):
    from transformers import AutoConfig

    from utils.train import base as bases

    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64}
    training_exercises.check_trainable(5, bases.skeleton(AutoConfig.for_model("gpt2", **shape)), 16)
    assert "no q_proj" in capsys.readouterr().out


def test_windows(tokenizer, capsys):
    from utils.data import chat_format
    from utils.practice import stand_ins

    pairs = stand_ins.preference_pairs(101, seed=3)
    lengths = chat_format.batch_lengths(pairs, tokenizer)
    whole = sorted(prompt + max(chosen, rejected) for prompt, chosen, rejected in lengths)
    right = whole[75]  # of 101, 75.75 are three quarters
    training_exercises.check_window(right, pairs, tokenizer)
    assert re.match(r"Right: \d+ of 101 pairs fit", capsys.readouterr().out)
    assert "and 76 should" in refused(training_exercises.check_window, right - 1, pairs, tokenizer)
    assert "so is a shorter window" in refused(training_exercises.check_window, right + 1, pairs, tokenizer)
    both = sorted(map(sum, lengths))[75]
    assert "never in one row" in refused(training_exercises.check_window, both, pairs, tokenizer)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (0.00398, "the whole way to the next level"),
        (0.0398, "shares of the block's largest weight"),
        (0.0796, "the next level itself"),
        (0.001, "1.99 times too small"),
        ("0.002", "a number, not '0.002'"),
        (-0.002, "0 or more"),
    ],
)
def test_lost_updates(answer, told, capsys):
    from bitsandbytes.functional import get_4bit_type

    levels = sorted(get_4bit_type("nf4", device="cpu").tolist())
    assert told in refused(training_exercises.check_lost, answer, levels, 0.05)
    training_exercises.check_lost(0.00199, levels, 0.05)
    assert "below 0.002 leaves the weight at 0" in capsys.readouterr().out


def in_place(weight, A, B, alpha, rank):
    weight += (alpha / rank * B @ A).to(weight.dtype)
    return weight


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda weight, A, B, alpha, rank: weight, "without any update"),
        (lambda weight, A, B, alpha, rank: weight + B @ A, "The update is not scaled"),
        (lambda weight, A, B, alpha, rank: weight + alpha * B @ A, "divided by the rank"),
        (lambda weight, A, B, alpha, rank: alpha / rank * B @ A, "That is the update alone"),
        (lambda weight, A, B, alpha, rank: weight - alpha / rank * B @ A, r"Not W \+ alpha / r"),
        (lambda weight, A, B, alpha, rank: weight + alpha / rank * B @ A, "It is torch.float32"),
        (lambda weight, A, B, alpha, rank: weight + alpha / rank * A @ B, "fails for .* RuntimeError"),
        (lambda weight, A, B, alpha, rank: None, "returns NoneType"),
        (lambda weight, A, B, alpha, rank: (B @ A).T, r"is \(20, 12\), the weight \(12, 20\)"),
        (in_place, "changes the weight that it is given"),
    ],
)
def test_merges(function, told, capsys):
    assert re.search(told, refused(training_exercises.check_merge, function), re.DOTALL)
    training_exercises.check_merge(lambda weight, A, B, alpha, rank: in_place(weight.clone(), A, B, alpha, rank))
    assert capsys.readouterr().out.startswith("Right: W + alpha / r")


GOOD = [name for name, why in training_exercises.FILES.items() if why is None]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("README.md", "a list of names"),
        (["weights.bin"], "There is no file 'weights.bin'"),
        ([*GOOD, "training_args.bin"], "training_args.bin is a pickle, in spite of its name"),
        ([*GOOD, "held_out.json", "debug.log"], "held_out.json holds other people's texts .*\ndebug.log is a log"),
        (GOOD[:2], "are needed or wanted there: run.json, README.md, LICENSE, tokenizer.json"),
    ],
)
def test_files(answer, told, capsys):
    assert re.search(told, refused(training_exercises.check_files, answer))
    training_exercises.check_files(set(GOOD))
    assert capsys.readouterr().out.startswith("Right: adapter_model.safetensors, ")


def test_the_files_that_may_go_are_those_that_the_course_pushes():
    from utils import hub as hub_access
    from utils.publish import merge as merging

    assert GOOD == [name for name in training_exercises.FILES if hub_access.matches(name, merging.ADAPTER_FILES)]
