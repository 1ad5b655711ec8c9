"""Time and memory of training steps: TRL's ORPO trainer and the course's on packed rows, with the same pairs.

    python benchmarks/train_step.py --shape mid
    python benchmarks/train_step.py --shape llama3-8b          (on a GPU)
    python benchmarks/train_step.py --beside liger --json table.json

The base has random weights and the pairs random tokens, but as many as real ones (`pair_lengths.json`, those that fit
into 1024); nothing is downloaded. Variants:

    trl                     the stock trainer with the article's settings
    fused, all recomputed   packed rows, with every layer recomputed as in `trl`; only with --recompute
    fused                   the same, but recomputed is only what does not fit into the peak of `trl`
    fused, 8 pairs a pass   one pass for each optimizer step, and the same losses; keeps what fits into the device
    fast                    that, with `fast_layers.speed_up`
    liger                   TRL's padded batches with the loss of liger-kernel, in chunks; only with --beside liger
    unsloth                 says why it does not run; only with --beside unsloth

Each trains in a process of its own from the same weights on the same pairs in the same order; one optimizer step warms
up. Rounds are interleaved (trl, fused, ..., trl, fused, ...), for a machine that drifts would otherwise look like
speed. The peak is that of all training: on a CPU the resident memory, and so for `fast` the compiler's too.

Columns: seconds for the pairs, median of all rounds, the fastest (a median far above it tells that others used the
machine), and their range as a part of the median; pairs per second, and relative to
`trl`; peak in GB above the loaded model, and relative to `trl`; largest differences from `trl`: of the loss of an
optimizer step, of the last step's gradient and of a tensor of the final adapter, these two relative to their lengths;
the work of distinct tokens, without recomputing, as a part of what the machine's measured matrix rate would do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils import environment
from utils.train import memory, step_costs

ALL, EIGHT = "fused, all recomputed", "fused, 8 pairs a pass"
EXACT = (ALL, "fused", EIGHT)
VARIANTS = ("trl", *EXACT, "fast", "liger", "unsloth")
CHILD = dict.fromkeys(memory.MALLOC, "1000000")  # blocks from 1 MB on, which costs no time
TOLERANCE = 1e-5  # of a loss, where all is fp32
# What is aimed at: shape, variant, key of its row, the least or the most that it may be, in words
TARGETS = [
    ("mid", "fused", "speed", ">=", 2.3, "times the pairs per second of trl"),
    ("mid", "fused", "memory", "<=", 1 / 3, "of the peak of trl above the loaded model"),
    ("mid", "fused", "loss", "<=", TOLERANCE, "largest difference of a loss"),
    ("mid", "fused", "gradient", "<=", TOLERANCE, "relative difference of the gradient"),
    ("llama3-8b", ALL, "speed", ">=", 1.8, "times the pairs per second of trl"),
    ("llama3-8b", ALL, "whole", "<=", 0.55, "of the peak of trl with the model"),
    ("llama3-8b", "fused", "speed", ">=", 2.5, "times the pairs per second of trl"),
    ("llama3-8b", "fused", "whole", "<=", 1.0, "of the peak of trl with the model"),
    ("llama3-8b", "fast", "speed", ">=", 4.0, "times the pairs per second of trl"),
    ("llama3-8b", "fast", "rate", ">=", 0.45, "of the measured matrix rate, on distinct tokens"),
]


def liger_trainer():
    """Return a class: TRL's trainer, whose batches go through the layers as ever and then into Liger's ORPO loss."""
    from liger_kernel.chunked_loss import LigerFusedLinearORPOLoss
    from trl.experimental.orpo import ORPOTrainer

    class LigerORPOTrainer(ORPOTrainer):
        def get_batch_loss_metrics(self, model, batch, train_eval="train"):
            causal = self.accelerator.unwrap_model(model).get_base_model()
            both = self.concatenated_inputs(batch, padding_value=self.padding_value, device=self.accelerator.device)
            ids, mask, labels = (both[f"concatenated_{name}"] for name in ("input_ids", "attention_mask", "labels"))
            with self.accelerator.autocast():
                hidden = causal.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            head = causal.lm_head.weight
            hidden, tokens = hidden[:, :-1].to(head.dtype), ids.where(mask == 1, -100)
            loss, (*_, nll, _, _, _, _) = LigerFusedLinearORPOLoss(beta=self.beta)(
                head, hidden, labels[:, 1:].contiguous(), nll_target=tokens[:, 1:].contiguous()
            )
            return loss, {"nll_loss": nll.item()}

    return LigerORPOTrainer


def run_variant(name: str, options: dict, adapter_file: str) -> dict:
    """Train one variant in this process, and return what it took; gradient and adapter of the end go into a file."""
    import torch
    from transformers import TrainerCallback
    from trl.experimental.orpo import ORPOTrainer

    if name == "unsloth":
        import unsloth  # noqa: F401

        raise ImportError("Unsloth patches what its own loader reads from a checkpoint, and this model has none")
    from utils.train.fused_orpo import FusedORPOTrainer

    if name == "fast":
        from utils.train import fast_layers
    torch.set_num_threads(os.cpu_count())
    shape, found = step_costs.SHAPES[options["shape"]], environment.find_device()
    device, dtype = found.kind, getattr(torch, found.dtype)
    micro_batch, accumulation = options["micro_batch"], options["accumulation"]
    rows = step_costs.made_up_rows(step_costs.read_lengths(options["lengths"], options["pairs"]), shape["vocab_size"])
    tokens = step_costs.count_tokens(rows, micro_batch)
    model = step_costs.random_base(shape, device, dtype, four_bit=device == "cuda")
    trainer, more = FusedORPOTrainer, {}
    if name in ("trl", "liger"):
        trainer = ORPOTrainer if name == "trl" else liger_trainer()
    elif name in (EIGHT, "fast"):
        more = {"nll_group": micro_batch}
        micro_batch, accumulation = micro_batch * accumulation, 1
    elif options["recompute"]:
        more = {"keep_gb": 0 if name == ALL else options["keep_gb"]}
    built = step_costs.build_trainer(trainer, model, rows, micro_batch, accumulation, options["recompute"], **more)
    if name == "fast":
        fast_layers.speed_up(built.model, dtype)
    trained = {key: weight for key, weight in built.model.named_parameters() if weight.requires_grad}
    gradient = {}

    class KeepsGradient(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, *_, **__):
            if state.global_step == state.max_steps - 1:
                gradient.update((key, weight.grad.clone()) for key, weight in trained.items())

    built.add_callback(KeepsGradient)
    held = torch.cuda.memory_allocated() / 1e9 if device == "cuda" else None
    result = step_costs.measure_steps(built, options["repeats"])
    gradient = {key: weight.cpu() for key, weight in gradient.items()}
    torch.save([gradient, {key: weight.detach().cpu() for key, weight in trained.items()}], adapter_file)
    return result | {"model_gb": held, "tokens": tokens}


def be_child(name: str, options: str, adapter_file: str, result_file: str) -> None:
    """Run one variant in this process, and write what came of it into a file."""
    import torch

    try:
        result = run_variant(name, json.loads(options), adapter_file)
    except torch.OutOfMemoryError:
        result = {"failed": "out of memory"}
    except ImportError as error:
        result = {"failed": f"not run: {error}"}
    Path(result_file).write_text(json.dumps(result))


def measure(options, folder: Path) -> dict[str, list[dict]]:
    """Run all variants in turns, each in a process of its own; one that failed is not tried again."""
    wanted = options.only or ["trl", *[ALL] * options.recompute, "fused", EIGHT, "fast", *options.beside]
    names = sorted(wanted, key=VARIANTS.index)  # `trl` first, for the others are compared with it
    results: dict[str, list[dict]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name, found in results.items():
            if found and "failed" in found[-1]:
                continue
            # What `trl` needs more than packed rows do when all is recomputed: so much `fused` may keep.
            peaks = [results[other][0].get("peak_gb") for other in ("trl", ALL) if results.get(other)]
            spare = max(peaks[0] - peaks[1], 0) if len(peaks) == 2 and None not in peaks else None
            adapter, result = str(folder / f"{name}-{turn}.pt"), folder / f"{name}-{turn}.json"
            given = json.dumps(vars(options) | {"keep_gb": spare})
            command = [sys.executable, __file__, "--child", name, given, adapter, str(result)]
            run = subprocess.run(command, env=os.environ | CHILD, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
            if result.exists():
                found.append(json.loads(result.read_text()) | {"adapter": adapter})
            else:
                print(run.stderr, file=sys.stderr)
                found.append({"failed": f"crashed: {(run.stderr.splitlines() or [f'signal {-run.returncode}'])[-1]}"})
            told = found[-1].get("failed") or f"{sum(found[-1]['seconds']):.1f} s"
            print(f"round {turn + 1} of {options.rounds}, {name}: {told}", file=sys.stderr, flush=True)
    return results


def compare(results: dict[str, list[dict]], options, matrix_rate: float) -> list[dict]:
    """Make one row for each variant, relative to `trl` where that ran."""
    import torch

    table, shape, stock = [], step_costs.SHAPES[options.shape], {}
    for name, found in results.items():
        if "failed" in found[-1]:
            table.append({"variant": name, "failed": found[-1]["failed"]})
            continue
        seconds = [each for result in found for each in result["seconds"]]
        median, peak = statistics.median(seconds), max(result["peak_gb"] for result in found)
        row = {
            "variant": name,
            "seconds": median,
            "best": min(seconds),
            "spread": (max(seconds) - min(seconds)) / median,
        }
        row |= {"pairs_per_second": options.pairs / median, "peak_gb": peak, "model_gb": found[0]["model_gb"]}
        row |= {"tokens": found[0]["tokens"], "losses": found[0]["losses"]}
        row["rate"] = step_costs.floor_seconds(shape, row["tokens"]["distinct"], matrix_rate) / median
        if name == "trl":
            stock = row | {"end": torch.load(found[0]["adapter"])}
        if stock:
            row |= {"speed": stock["seconds"] / median, "memory": peak / stock["peak_gb"]}
            if row["model_gb"]:
                row["whole"] = (row["model_gb"] + peak) / (stock["model_gb"] + stock["peak_gb"])
            losses = torch.tensor([row["losses"], stock["losses"]], dtype=torch.float64)
            row["loss"] = float((losses[0] - losses[1]).abs().max())  # which is no number if one of them is none
            gradient, adapter = (
                [(it[key], expected) for key, expected in wanted.items()]
                for it, wanted in zip(torch.load(found[0]["adapter"]), stock["end"], strict=True)
            )
            gradient = [torch.cat([weight.flatten() for weight in side]) for side in zip(*gradient, strict=True)]
            row["gradient"] = _relative(*gradient)
            row["adapter"] = max(_relative(*pair) for pair in adapter)
        table.append(row)
    return table


def _relative(found, expected) -> float:
    return float((found - expected).norm() / expected.norm())


def lines_of(table: list[dict]) -> list[str]:
    """Write the table as aligned text."""
    columns = {
        "seconds": ".2f",
        "best": ".2f",
        "spread": ".0%",
        "pairs_per_second": ".2f",
        "speed": ".2f",
        "peak_gb": ".2f",
    }
    columns |= {"memory": ".2f", "loss": ".1e", "gradient": ".1e", "adapter": ".1e", "rate": ".0%"}
    heads = "seconds best spread pairs/s x_trl peak_GB x_trl loss gradient adapter rate".split()
    lines = [f"{'variant':22}" + "".join(f"{head:>9}" for head in heads)]
    for row in table:
        cells = [f"{row[key]:{form}}" if key in row else "-" for key, form in columns.items()]
        lines.append(
            f"{row['variant']:22}" + (f"  {row['failed']}" if "failed" in row else "".join(f"{it:>9}" for it in cells))
        )
    return lines


def verdicts(table: list[dict], shape: str) -> list[str]:
    """Say of each target that is set for the shape whether it is met."""
    rows, lines = {row["variant"]: row for row in table}, []
    for of, name, key, sign, limit, words in TARGETS:
        if of != shape:
            continue
        value = rows.get(name, {}).get(key)
        met = value is not None and (value >= limit if sign == ">=" else value <= limit)
        figures = "not measured" if value is None else f"{value:.3g}"
        lines.append(f"{'met   ' if met else 'missed'} {name}: {figures}, wanted {sign} {limit:.3g} {words}")
    return lines


def wrong_losses(table: list[dict]) -> list[str]:
    """Name the exact variants whose losses are not those of `trl`; a loss that is no number is wrong too."""
    return [row["variant"] for row in table if row["variant"] in EXACT and not row.get("loss", 0) <= TOLERANCE]


def read_options():
    """Read the command line, and fill in what follows from the shape and the device."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=step_costs.SHAPES, default="mid")
    parser.add_argument("--lengths", default=str(ROOT / "benchmarks" / "pair_lengths.json"))
    parser.add_argument("--pairs", type=int, help="rounded down to whole optimizer steps; 16, for llama3-8b 200")
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--rounds", type=int, help="processes of each variant; 3, on a GPU 1")
    parser.add_argument("--repeats", type=int, default=1, help="times that a process trains on the pairs")
    parser.add_argument("--recompute", action=argparse.BooleanOptionalAction, help="on for llama3-8b")
    parser.add_argument("--beside", action="append", choices=["liger", "unsloth"], default=[])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="these alone")
    parser.add_argument("--json", help="file that the table is written into as well")
    options = parser.parse_args()
    large, step = options.shape == "llama3-8b", options.micro_batch * options.accumulation
    options.pairs = (options.pairs or (200 if large else 16)) // step * step
    options.rounds = options.rounds or (1 if torch.cuda.is_available() else 3)
    options.recompute = large if options.recompute is None else options.recompute
    return options


def main() -> int:
    """Measure and print; return 1 if a variant crashed, or an exact one has other losses than `trl` in fp32."""
    import torch

    options, device = read_options(), environment.find_device()
    print(environment.describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
        rate = step_costs.measured_rates(device.kind, getattr(torch, device.dtype))["matrix"]
        table = compare(results, options, rate)
    counts = next((row["tokens"] for row in table if "tokens" in row), {})
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    print(f"{options.shape}, {options.pairs} pairs; tokens in batches of {options.micro_batch}: {told}")
    print(f"matrix rate {rate / 1e12:.3g} TFLOP/s in {device.dtype}")
    said = verdicts(table, options.shape)
    print("\n".join([*lines_of(table), *said]))
    wrong = wrong_losses(table) if device.kind == "cpu" else []  # elsewhere 16 bits make a noise of their own
    print("".join(f"wrong: {name} has other losses than trl\n" for name in wrong), end="")
    if options.json:
        about = {"environment": environment.describe_machine(), "options": vars(options), "matrix_rate": rate}
        Path(options.json).write_text(json.dumps(about | {"table": table, "verdicts": said}, indent=2) + "\n")
    return int(bool(wrong) or any(row.get("failed", "").startswith("crashed") for row in table))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        be_child(*sys.argv[2:])
    else:
        sys.exit(main())
