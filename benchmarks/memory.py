"""Predicted and measured peak memory of a training step, for TRL's trainer and the course's on packed rows.

    python benchmarks/memory.py                        (a CPU, about three minutes)
    python benchmarks/memory.py --shape llama3-8b      (a GPU)

A step is a forward and a backward pass over pairs of random tokens, as many as in real pairs (`pair_lengths.json`,
those that fit into 1024); the base has random weights, and LoRA as in the course. On a GPU the base is in NF4 and
computes in bf16 like notebook 03's, on a CPU all is in fp32. `memory.predict` is told the longest answer with its
prompt, and how many tokens the packed row has.

Columns: the most GB that a step holds above the loaded model and its gradients, predicted (activations and logits) and
measured, and measured as a part of predicted; on a GPU the same of the whole peak, which has to fit, without the
optimizer, for no step of Adam is made. Each case runs in a process of its own, so that no allocator remembers another;
a step before the measured one makes what libraries allocate once.
"""

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils import environment
from utils.train import base as bases
from utils.train import memory, step_costs

LENGTHS = ROOT / "benchmarks" / "pair_lengths.json"
TRAINERS = ("trl", "fused")


def made_up_batch(shape: str, pairs: int) -> tuple[list[dict], int, int]:
    """Return rows of the first real lengths, the tokens of the longest, and those of all when they are packed."""
    rows = step_costs.made_up_rows(step_costs.read_lengths(LENGTHS, pairs), step_costs.SHAPES[shape]["vocab_size"])
    longest = max(len(row[f"{side}_input_ids"]) for row in rows for side in ("chosen", "rejected"))
    return rows, longest, step_costs.count_tokens(rows, pairs)["distinct"]


def measure(shape: str, pairs: int, recompute: bool, name: str) -> dict[str, float]:
    """Measure one case in this process: the peak above the loaded model, and on a GPU the whole one, in GB."""
    import torch
    from trl.experimental.orpo import ORPOTrainer

    from utils.train import checks as training_checks
    from utils.train import fused_orpo

    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    model = step_costs.random_base(step_costs.SHAPES[shape], device, dtype, four_bit=on_gpu)
    rows, _, _ = made_up_batch(shape, pairs)
    kind = {"trl": ORPOTrainer, "fused": fused_orpo.FusedORPOTrainer}[name]
    options = {} if name == "trl" else {"keep_gb": 0}  # where layers are recomputed, all of them
    trainer = step_costs.build_trainer(kind, model, rows, pairs, 1, recompute, **options)
    for part, module in model.named_modules():
        if "norm" in part:  # TRL makes them fp32 when it adds LoRA, as here; notebook 03 adds it before
            module.to(dtype)
    batch = trainer.data_collator(rows)
    training_checks.forward_and_backward(trainer, batch)
    with memory.measure_peak() as peak:
        training_checks.forward_and_backward(trainer, batch)
    return {"above": peak.gb} | ({"whole": torch.cuda.max_memory_allocated() / 1e9} if on_gpu else {})


def main() -> None:
    """Print a line for each case, with what was predicted beside what was measured."""
    import torch
    from transformers import AutoConfig

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=step_costs.SHAPES, default="mid")
    parser.add_argument("--pairs", type=int, nargs="+", default=[2, 4], help="in one pass")
    given = parser.parse_args()
    model = bases.skeleton(AutoConfig.for_model("llama", **step_costs.SHAPES[given.shape]))
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    whole = "   predicted  measured   ratio" if torch.cuda.is_available() else ""
    print(f"{given.shape}, {dtype}, on {environment.describe_machine()}")
    print(f"GB above the model{', then with it' if whole else ''}")
    print(f"trainer  layers      pairs  longest  packed   predicted  measured   ratio{whole}", flush=True)
    cases = [(pairs, recompute, name) for pairs in given.pairs for recompute in (True, False) for name in TRAINERS]
    os.environ |= memory.MALLOC  # for the processes to come: the C library reads it when a program starts
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trl.experimental.orpo", "bitsandbytes"])  # imported once, not in each process
    with ProcessPoolExecutor(1 if whole else 2, mp_context=context, max_tasks_per_child=1) as pool:
        running = [pool.submit(measure, given.shape, *case) for case in cases]
        for (pairs, recompute, name), measurement in zip(cases, running, strict=True):
            _, longest, tokens = made_up_batch(given.shape, pairs)
            sizes = pairs, longest, dtype, recompute, step_costs.LORA_R, name, tokens
            parts = memory.predict(model, bases.linear_layers(model), *sizes)
            predicted = {"above": parts["activations"] + parts["logits"]}
            predicted |= {"whole": sum(parts.values()) - parts["optimizer, 8 bits"]}
            line = f"{name:7}  {'recomputed' if recompute else 'kept':10} {pairs:6} {longest:8} {tokens:7}"
            try:
                for key, found in measurement.result().items():
                    line += f" {predicted[key]:11.3f} {found:9.3f} {found / predicted[key]:7.2f}"
            except torch.OutOfMemoryError:
                line += f" {predicted['above']:11.3f}  out of memory"
            print(line, flush=True)


if __name__ == "__main__":
    main()
