"""The preflight: every line can be red, each red names its fix, and only those that would stop a run stop it."""

import re

import pytest

from utils import environment, preflight

WRITER = {"name": "ada", "role": "write", "namespaces": ["ada", "lab"]}


def test_a_full_disk_is_red_with_how_much_to_free_and_never_says_to_delete_the_machine(tmp_path):
    _, free_gb = environment.find_disk(tmp_path)
    parts = [(free_gb / 2, tmp_path, "the base"), (free_gb / 4, tmp_path / "not yet", "the merged model")]
    (green,) = preflight.check_disk(parts)
    assert green.fine and "for the base, the merged model" in green.found
    (red,) = preflight.check_disk([*parts, (free_gb / 2, tmp_path, "its read-back")])  # each alone would fit
    assert not red.fine and re.search(r"free \d+\.\d GB here", red.mend) and "delete" not in red.mend


@pytest.mark.parametrize(
    "identity, repo_id, base_model, told",
    [
        (None, "ada/x", None, "no token that the Hub knows. What to do: make one with the role write"),
        (WRITER | {"role": "read"}, "ada/x", None, "ada, role read. What to do: this one may only read"),
        (WRITER, "somebody/x", None, "ada cannot write to somebody/x. What to do: choose one under ada/ or lab/"),
        (WRITER, "ada/a name", None, "What to do: take ada/a-name"),
        (WRITER, "ada", None, "'ada' has no owner. What to do: take ada/ada"),
        (WRITER, "ada/my-model", "lab/Llama-3.2-1B", "does not begin with Llama. .*ada/Llama-my-model"),
        (WRITER, "ada/my-model", "lab/Meta-Llama-3-8B", "does not begin with Llama-3.*ada/Llama-3-my-model"),
    ],
    ids=["no token", "may only read", "foreign namespace", "no valid name", "no owner", "Llama 3.2", "Llama 3"],
)
def test_fault_a_push_that_would_be_refused_is_refused_first(identity, repo_id, base_model, told):
    checks = preflight.check_writing(identity, [repo_id], base_model)
    with pytest.raises(preflight.NotReady, match=told):
        preflight.stop_if_red(checks)


def test_a_push_that_may_go_on_is_green():
    for repo_id, base_model in [("lab/phi-2-ORPO", "microsoft/phi-2"), ("ada/Llama-3-8B-ORPO", "lab/Meta-Llama-3-8B")]:
        checks = preflight.check_writing(WRITER | {"role": "fineGrained"}, [repo_id], base_model)
        assert len(checks) == 2 and all(check.fine for check in checks)
    assert [check.fine for check in preflight.check_writing(None, [])] == [True]  # nothing is written


def test_the_table_has_the_fix_beside_each_red_and_nothing_beside_green():
    checks = [preflight.Check("disk", True, "this"), preflight.Check("disk", False, "<that>", "mend it")]
    table = preflight.as_table(checks)
    assert list(table.data["fine"]) == ["yes", "no"]
    assert list(table.data["what would fix it"]) == ["", checks[1].mend]
    page = table.to_html()
    assert page.count(preflight.GREEN) == page.count(preflight.RED) == 1 and "&lt;that&gt;" in page
