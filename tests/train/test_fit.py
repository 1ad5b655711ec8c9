"""The checks of a base and of its training: every line can be red, and each red names its fix."""

from dataclasses import replace

import pytest
from support.planned import Planned
from transformers import LlamaConfig

from utils import preflight
from utils.environment import Device
from utils.train import base as bases
from utils.train import fit, memory
from utils.train.base import Base
from utils.train.profiles import PROFILES

RECIPE = Planned()
LLAMA = LlamaConfig(**memory.LLAMA_3_8B)
SMALL = LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4)
BASE = Base("lab/llama-8b", "c" * 40, "hub", "llama3", "not gated", True, 16.0, 16.0, bases.skeleton(LLAMA), None)
SMALL_BASE = replace(BASE, skeleton=bases.skeleton(SMALL))
L4 = Device("cuda", "NVIDIA L4", 23.7, "bfloat16", "it can")
T4 = Device("cuda", "Tesla T4", 15.8, "float16", "it cannot do bf16")
K80 = Device("cuda", "Tesla K80", 12.0, "float16", "it cannot do bf16")
CPU = Device("cpu", "2 CPU cores", 25.0, "float32", "a CPU")


def line(checks, name):
    (found,) = [check for check in checks if check.name == name]
    return found


def train(base=BASE, device=L4, profile="l4", **changes):
    return fit.check_training(replace(RECIPE, **changes), base, device, PROFILES[profile])


def test_the_default_run_is_green_on_the_gpus_it_is_made_for():
    for device, profile in ((L4, "l4"), (T4, "t4")):
        checks = fit.check_base(BASE) + train(device=device, profile=profile)
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
    assert "the profile in MORE to 'a100'" in line(train(profile="h100"), "memory").mend
    assert "the profile in MORE to 't4'" in line(train(device=K80), "memory").mend


def test_the_trainer_that_is_asked_for_is_predicted():
    expected = sum(memory.budgets(BASE.skeleton, RECIPE, PROFILES, "fused")["l4"].values())
    for trainer in ("fused", "fast"):
        checks = fit.check_training(RECIPE, BASE, L4, PROFILES["l4"], trainer)
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
        checks = fit.check_base(base)
        assert not line(checks, name).fine and train(base) == [] == fit.check_merging(base, L4)
        with pytest.raises(preflight.NotReady, match=told):
            preflight.stop_if_red(checks)


def test_weights_in_pickles_only_are_red():
    checks = fit.check_base(replace(BASE, size_gb=0.0))
    with pytest.raises(preflight.NotReady, match="its weights are pickles only"):
        preflight.stop_if_red(checks)


def test_merging_needs_room_for_the_whole_base():
    name = "memory to merge"
    assert line(fit.check_merging(BASE, L4), name).fine
    assert (
        "a GPU of profile l4 or a machine without a GPU and with 23 GB" in line(fit.check_merging(BASE, T4), name).mend
    )
    assert line(fit.check_merging(SMALL_BASE, CPU), name).fine
