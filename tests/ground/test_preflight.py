"""The preflight: every line can be red, each red names its fix, and only those that would stop a run stop it."""

import re
from dataclasses import replace

import pytest
from transformers import LlamaConfig

from utils import environment, preflight
from utils.environment import Device
from utils.train import base as bases
from utils.train import memory
from utils.train.base import Base
from utils.train.profiles import PROFILES
from utils.train.recipes import RECIPES

RECIPE = RECIPES["course-llama3"]
LLAMA = LlamaConfig(**memory.LLAMA_3_8B)
SMALL = LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4)
BASE = Base("lab/llama-8b", "c" * 40, "hub", "llama3", "not gated", True, 16.0, 16.0, bases.skeleton(LLAMA), None)
SMALL_BASE = replace(BASE, skeleton=bases.skeleton(SMALL))
L4 = Device("cuda", "NVIDIA L4", 23.7, "bfloat16", "it can")
T4 = Device("cuda", "Tesla T4", 15.8, "float16", "it cannot do bf16")
K80 = Device("cuda", "Tesla K80", 12.0, "float16", "it cannot do bf16")
CPU = Device("cpu", "2 CPU cores", 25.0, "float32", "a CPU")
WRITER = {"name": "ada", "role": "write", "namespaces": ["ada", "lab"]}


def line(checks, name):
    (found,) = [check for check in checks if check.name == name]
    return found


def train(base=BASE, device=L4, profile="l4", **changes):
    return preflight.check_training(replace(RECIPE, **changes), base, device, PROFILES[profile])


def test_the_default_run_is_green_on_the_gpus_it_is_made_for():
    for device, profile in ((L4, "l4"), (T4, "t4")):
        checks = preflight.check_base(BASE) + train(device=device, profile=profile)
        assert [check.name for check in checks] == ["licence", "base", "device", "memory", "time"]
        assert all(check.fine for check in checks), checks
        preflight.stop_if_red(checks)
    assert line(train(), "time").found.startswith("2.7 h, estimated")  # the article's 2 h and a third for evaluation
    assert line(train(), "memory").found.startswith(
        f"{sum(memory.budgets(BASE.skeleton, RECIPE, PROFILES)['l4'].values()):.2f} GB predicted"
    )


def test_fault_no_gpu_for_a_large_base_stops_with_the_profiles_that_would_fit():
    checks = train(device=CPU, profile="cpu")
    assert not line(checks, "device").fine and not line(checks, "memory").fine and not line(checks, "time").fine
    with pytest.raises(
        preflight.NotReady, match="Device: 2 CPU cores.*What to do: take a GPU of profile t4 or l4 or a100"
    ):
        preflight.stop_if_red(checks)


def test_fault_a_gpu_too_small_stops_with_the_profiles_that_would_fit():
    checks = train(device=replace(K80, name="Quadro", memory_gb=8.6), profile="l4")
    assert line(checks, "device").fine and not line(checks, "memory").fine
    message = (
        r"Memory: 12\.\d+ GB predicted, 7\.9 GB usable. What to do: take a GPU of profile t4 or l4 or a100 or h100"
    )
    with pytest.raises(preflight.NotReady, match=message):
        preflight.stop_if_red(checks)


def test_a_base_that_no_profile_holds_says_so():
    huge = LlamaConfig(**memory.LLAMA_3_8B | {"num_hidden_layers": 1000})
    assert "no profile holds it" in line(train(replace(BASE, skeleton=bases.skeleton(huge))), "memory").mend


def test_a_small_base_trains_on_a_cpu_even_with_a_short_context():
    assert all(check.fine for check in train(SMALL_BASE, CPU, "cpu"))
    short = LlamaConfig(**SMALL.to_diff_dict() | {"max_position_embeddings": 128})
    needed = [
        line(train(replace(BASE, skeleton=bases.skeleton(config)), CPU, "cpu"), "memory").found
        for config in (SMALL, short)
    ]
    assert float(needed[1].split()[0]) < float(needed[0].split()[0])  # predicted for what it will be trained at


def test_a_run_of_days_is_red_and_says_how_many_pairs_fit_into_a_session_but_does_not_stop():
    checks = train(num_pairs=39_703)
    time = line(checks, "time")
    assert not time.fine and time.found.startswith("80.1 h") and "set NUM_PAIRS = 5666 to stay within 12 h" in time.mend
    preflight.stop_if_red(checks)
    assert line(train(num_pairs=5666), "time").fine and not line(train(num_pairs=5667), "time").fine
    assert line(train(num_pairs=None), "time").fine


def test_what_fits_with_fewer_pairs_at_once_says_which_profile_to_set():
    assert "set PROFILE = 'a100'" in line(train(profile="h100"), "memory").mend
    assert "set PROFILE = 't4'" in line(train(device=K80), "memory").mend


def test_the_trainer_that_is_asked_for_is_predicted():
    expected = sum(memory.budgets(BASE.skeleton, RECIPE, PROFILES, "fused")["l4"].values())
    for trainer in ("fused", "fast"):
        checks = preflight.check_training(RECIPE, BASE, L4, PROFILES["l4"], trainer)
        assert line(checks, "memory").found.startswith(f"{expected:.2f} GB") and line(checks, "memory").fine


def test_the_devices_own_dtype_is_predicted():
    """A profile made for bf16 takes twice the memory where there is none."""
    found = [line(train(SMALL_BASE, CPU, name), "memory").found for name in ("l4", "cpu")]
    half = sum(memory.budgets(SMALL_BASE.skeleton, RECIPE, PROFILES)["l4"].values())
    assert float(found[0].split()[0]) > 1.2 * half


def test_what_cannot_be_read_is_red_and_predicts_nothing():
    gated = replace(
        BASE, may_download=False, gate="gated", skeleton=None, trouble="accept it at the page, or the mirror"
    )
    for base, name, told in [
        (gated, "licence", "accept it at the page, or the mirror"),
        (replace(BASE, skeleton=None, trouble="it brings code of its own"), "base", "it brings code of its own"),
    ]:
        checks = preflight.check_base(base)
        assert not line(checks, name).fine and train(base) == [] == preflight.check_merging(base, L4)
        with pytest.raises(preflight.NotReady, match=told):
            preflight.stop_if_red(checks)


def test_weights_in_pickles_only_are_red():
    checks = preflight.check_base(replace(BASE, size_gb=0.0))
    with pytest.raises(preflight.NotReady, match="its weights are pickles only"):
        preflight.stop_if_red(checks)


def test_merging_needs_room_for_the_whole_base():
    name = "memory to merge"
    assert line(preflight.check_merging(BASE, L4), name).fine
    assert (
        "a GPU of profile l4 or a machine without a GPU and with 23 GB"
        in line(preflight.check_merging(BASE, T4), name).mend
    )
    assert line(preflight.check_merging(SMALL_BASE, CPU), name).fine


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
    assert list(table.data["what would mend it"]) == ["", checks[1].mend]
    page = table.to_html()
    assert page.count(preflight.GREEN) == page.count(preflight.RED) == 1 and "&lt;that&gt;" in page


def test_a_source_is_compared_with_what_was_published_and_never_stops():
    same = preflight.check_rows("math", 2418, 2181, 2181)
    assert same.fine and same.name == "math" and same.found == "2,181 of 2,418 rows taken, 2,181 expected (+0)"
    more, fewer = (preflight.check_rows("prm", 7985, 7985, expected) for expected in (7958, 10_000))
    assert not more.fine and more.found.endswith("7,985 of 7,985 rows taken, 7,958 expected (+27)")
    assert not fewer.fine and fewer.found.endswith("10,000 expected (-2,015)")
    unknown = preflight.check_rows("mine", 30, 0, None)
    assert unknown.fine and unknown.found == "0 of 30 rows taken; nothing is published to compare with"
    assert not preflight.check_rows("mine", 30, 1, 0).fine  # none expected is not nothing known
    preflight.stop_if_red([more, fewer])
    page = preflight.as_table([same, more, unknown]).to_html()
    assert page.count(preflight.RED) == 1 and "look at its card and history" in page
