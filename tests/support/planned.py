"""What a run is asked to do, as `train.fit` and `train.memory` read it, with the course's own values."""

from dataclasses import dataclass

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Planned:
    num_pairs: int | None = 1000
    num_eval_pairs: int = 200
    num_epochs: float = 1.0
    effective_batch: int = 8
    max_length: int = 1024
    lora_r: int = 16
    target_modules: tuple[str, ...] = ATTENTION + MLP
