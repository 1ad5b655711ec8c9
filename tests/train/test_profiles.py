"""What the hardware decides: a profile for each device, and passes that add up to the same step."""

from dataclasses import replace

import pytest

from utils.environment import Device
from utils.train import profiles


def gpu(name: str, memory_gb: float) -> Device:
    return Device("cuda", name, memory_gb, "bfloat16", "a test")


@pytest.mark.parametrize(
    "device, expected, reason",
    [
        # names and sizes as CUDA reports them
        (gpu("Tesla T4", 15.64), "t4", "is a Tesla T4"),
        (gpu("NVIDIA L4", 23.58), "l4", "is a NVIDIA L4"),
        (gpu("NVIDIA A100-SXM4-40GB", 42.41), "a100", "is a NVIDIA A100"),
        (gpu("NVIDIA A100-SXM4-80GB", 85.1), "a100", "is a NVIDIA A100"),
        (gpu("NVIDIA A100 80GB PCIe", 85.1), "a100", "is a NVIDIA A100"),
        (gpu("NVIDIA H100 80GB HBM3", 84.93), "h100", "is a NVIDIA H100"),
        (gpu("NVIDIA H200", 150.1), "h100", "is a NVIDIA H200"),
        (gpu("NVIDIA GeForce RTX 4090", 25.25), "l4", "not listed"),
        (gpu("NVIDIA L40S", 47.7), "a100", "not listed"),  # no L4, and twice as large
        (gpu("NVIDIA RTX PRO 6000 Blackwell Server Edition", 101.9), "h100", "not listed"),
        (gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4.9), "t4", "less than the smallest"),
        (gpu("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20.9), "t4", "not listed"),
        (gpu("NVIDIA T400 4GB", 4.1), "t4", "less than the smallest"),
        (gpu("NVIDIA GeForce RTX 3050 Laptop GPU", 6.4), "t4", "has 6 GB, less than the smallest"),
        (Device("cpu", "2 CPU cores", 8.0, "float32", "a test"), "cpu", "no GPU"),
    ],
    ids=lambda value: value.name if isinstance(value, Device) else "",
)
def test_the_profile_of_a_device(device, expected, reason):
    profile, why = profiles.choose_profile(device)
    assert profile.name == expected
    assert reason in why


def test_no_profile_is_chosen_that_asks_for_more_than_there_is():
    for memory_gb in range(16, 160, 4):
        profile, _ = profiles.choose_profile(gpu("Some GPU", memory_gb))
        assert profile.memory_gb <= memory_gb * 1.1
        larger = [p for p in profiles.PROFILES.values() if profile.memory_gb < p.memory_gb <= memory_gb]
        assert not larger


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_the_profile_that_is_asked_for_wins(name):
    profile, why = profiles.choose_profile(gpu("NVIDIA L4", 23.58), name)
    assert profile == profiles.PROFILES[name] and profile.name == name and "you asked" in why


def test_an_unknown_profile_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no profile 'v100'.*cpu, t4, l4, a100, h100"):
        profiles.choose_profile(gpu("NVIDIA L4", 23.58), "v100")


def test_a_step_sees_the_same_pairs_on_every_gpu():
    for profile in profiles.PROFILES.values():
        for batch in (4, 8, 16):
            for trainer in ("trl", "fused", "fast"):
                assert profiles.accumulation(profile, batch, trainer) * profile.pairs_in_a_pass(trainer, batch) == batch


def test_a_small_batch_is_one_pass():
    assert profiles.accumulation(profiles.PROFILES["h100"], 2) == 1
    assert profiles.accumulation(profiles.PROFILES["t4"], 1) == 1
    assert profiles.accumulation(profiles.PROFILES["t4"], 2, "fused") == 1


def test_a_packed_row_takes_whole_passes_of_the_stock_trainer():
    """Its NLL is averaged over groups of as many pairs, so that both trainers compute the same."""
    for profile in profiles.PROFILES.values():
        assert profile.packed_batch > profile.micro_batch or profile.packed_batch == 8
        assert profile.packed_batch % profile.micro_batch == 0


def test_micro_batches_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="4 pairs .profile a100. do not add up to 6"):
        profiles.accumulation(profiles.PROFILES["a100"], 6)
    odd = replace(profiles.PROFILES["h100"], micro_batch=3)
    with pytest.raises(ValueError, match="3 pairs .*do not add up to 8"):
        profiles.accumulation(odd, 8)


def test_profiles_grow_with_the_memory():
    gpus = [profile for profile in profiles.PROFILES.values() if profile.gpus]
    for smaller, larger in zip(gpus, gpus[1:], strict=False):
        assert smaller.memory_gb < larger.memory_gb and smaller.micro_batch <= larger.micro_batch
