"""What the hardware decides, and nothing else: pairs per micro-batch, accumulation and recomputation.

A profile never sets a learning rate or a beta: those belong to the recipe. A run still differs a little between GPUs:
with TRL's trainer a different number of passes changes the NLL's mean, which is over the tokens of a pass. Notebook 09
measures 33 % of the gradient's length between one pass of eight pairs and four of two.
"""

import re
from dataclasses import dataclass

COMPUTES = {"trl": "trl", "fused": "fused", "fast": "fused"}  # what TRAINER may be, and whose passes it makes


@dataclass(frozen=True)
class Profile:
    """Settings for one class of hardware, and a sentence for each."""

    name: str
    gpus: tuple[str, ...]  # parts of the GPU names that CUDA reports
    memory_gb: float  # what CUDA reports in total, in GB (10^9 bytes); 0 for a CPU, which has no fixed size
    dtype: str  # what it computes in; `environment.find_device` gives the reason
    micro_batch: int  # pairs that one forward and backward pass takes
    why_micro_batch: str
    recompute: bool  # compute the layers again in the backward pass instead of keeping their activations
    why_recompute: str
    packed_batch: int  # pairs that one row of the fused trainer takes: without whole logits, more of them fit
    hours: float  # of 1,000 pairs on Llama 3 8B: published for the L4, scaled by the cards' peak rates for the others

    def pairs_in_a_pass(self, trainer: str, effective_batch: int) -> int:
        """Return how many pairs one pass takes, with "trl" padded and each on its own, with "fused" or "fast" packed.

        Example:
            >>> PROFILES["l4"].pairs_in_a_pass("trl", 8), PROFILES["l4"].pairs_in_a_pass("fused", 8)
            (2, 8)
        """
        if trainer not in COMPUTES:
            raise ValueError(f"There is no trainer {trainer!r}. Set TRAINER to one of {', '.join(COMPUTES)}.")
        return min(self.micro_batch if COMPUTES[trainer] == "trl" else self.packed_batch, effective_batch)


# 32 layers x (12 x 4,096 + 2 x (4 x 4,096 + 4 x 14,336)) bytes, as `memory.predict` counts them
_KEPT = "kept, an 8B base's activations would take 6 MB a token"
# 340 h: 1.3 million padded tokens x 6 x 8.03 billion operations, at 50 billion a second
_CPU = Profile(
    "cpu",
    (),
    0.0,
    "float32",
    4,
    "small bases only: fewer, larger passes",
    False,
    "RAM is plenty for a small base",
    8,
    340,
)
_T4 = Profile("t4", ("T4",), 15.8, "float16", 1, "16 GB hold the logits of one pair", True, _KEPT, 4, 3.7)
_L4 = Profile("l4", ("L4",), 23.7, "bfloat16", 2, "24 GB hold the logits of two pairs", True, _KEPT, 8, 2.0)
_A100 = Profile("a100", ("A100",), 42.3, "bfloat16", 4, "40 GB hold the logits of four pairs", True, _KEPT, 8, 0.75)
_H100 = Profile(
    "h100", ("H100", "H200"), 85.0, "bfloat16", 8, "80 GB hold the logits of the whole step", True, _KEPT, 8, 0.25
)
PROFILES = {profile.name: profile for profile in (_CPU, _T4, _L4, _A100, _H100)}


def choose_profile(device, name: str | None = None) -> tuple[Profile, str]:
    """Choose the profile for a device (the one asked for, the GPU's own, or the largest that fits), and say why."""
    if name not in (None, "auto"):
        if name not in PROFILES:
            raise ValueError(f"There is no profile {name!r}. Choose one of {', '.join(PROFILES)}, or auto.")
        return PROFILES[name], "you asked for it"
    if device.kind == "cpu":
        return PROFILES["cpu"], "there is no GPU"
    for profile in PROFILES.values():
        if (
            any(re.search(rf"\b{part}\b", device.name) for part in profile.gpus)
            and device.memory_gb >= 0.9 * profile.memory_gb
        ):
            return profile, f"the GPU is a {device.name}"
    fitting = [profile for profile in PROFILES.values() if profile.gpus and profile.memory_gb <= device.memory_gb * 1.1]
    if not fitting:
        return PROFILES["t4"], f"{device.name} has {device.memory_gb:.0f} GB, less than the smallest profile asks for"
    return fitting[-1], f"{device.name} is not listed; its {device.memory_gb:.0f} GB hold what this profile needs"


def accumulation(profile: Profile, effective_batch: int, trainer: str = "trl") -> int:
    """Return how many passes make one step of `effective_batch` pairs; `ValueError` if that does not divide.

    Example:
        >>> accumulation(PROFILES["l4"], 8)
        4
    """
    micro_batch = profile.pairs_in_a_pass(trainer, effective_batch)
    if effective_batch % micro_batch:
        raise ValueError(
            f"Micro-batches of {micro_batch} pairs (profile {profile.name}) do not add up to {effective_batch}: set "
            f"effective_batch to a multiple of {micro_batch}, or the profile to 't4'."
        )
    return effective_batch // micro_batch
