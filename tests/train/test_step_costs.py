"""Made-up models and pairs cost what real ones do, and what is measured of a step is what was done."""

import os
import subprocess
import sys
import time
from pathlib import Path

import bitsandbytes
import pytest
import torch
from datasets import disable_progress_bars
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM
from trl.experimental.orpo import ORPOTrainer
from trl.experimental.utils import DPODataCollatorWithPadding

from utils.train import base as bases
from utils.train import memory, step_costs
from utils.train.fused_orpo import FusedORPOTrainer, PackingCollator
from utils.train.step_costs import SHAPES

disable_progress_bars()

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = ROOT / "benchmarks" / "pair_lengths.json"
TINY = SHAPES["tiny"]
SHORT = [(20, 30, 12), (7, 5, 40), (33, 8, 9), (2, 21, 20)]


def some_rows(lengths=SHORT) -> list[dict]:
    return step_costs.made_up_rows(lengths, TINY["vocab_size"])


def trainer_of(kind, lengths=SHORT, model=None, accumulation=2, recompute=False, **options):
    rows = some_rows(lengths)
    model = model or step_costs.random_base(TINY)
    return step_costs.build_trainer(kind, model, rows, 2, accumulation, recompute, **options)


# Pairs


def test_lengths_are_those_of_the_pairs_that_fit_in_the_order_of_the_file():
    lengths = step_costs.read_lengths(LENGTHS, 500)
    assert lengths[:3] == [(32, 337, 117), (529, 216, 258), (21, 529, 219)]
    assert lengths[213:] == (lengths[:213] * 2)[: 500 - 213] and lengths[212] != lengths[-1]  # 87 of 300 do not fit
    assert max(prompt + max(answers) for prompt, *answers in lengths) <= 1024
    short = step_costs.read_lengths(LENGTHS, 20, max_length=200)
    assert len(short) == 20 and max(prompt + max(answers) for prompt, *answers in short) <= 200


def test_made_up_rows_are_such_as_trl_makes_of_text():
    made = trainer_of(ORPOTrainer)
    text = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    real = made.tokenize_row(text[0])
    rows = some_rows()
    assert all(set(row) == set(real) | {"prompt"} for row in rows)
    for row, (prompt, *answers) in zip(rows, SHORT, strict=True):
        assert len(row["prompt_input_ids"]) == prompt
        for side, count in zip(("chosen", "rejected"), answers, strict=True):
            ids, labels = row[f"{side}_input_ids"], row[f"{side}_labels"]
            assert ids[:prompt] == row["prompt_input_ids"] and len(ids) == prompt + count
            assert labels == [-100] * prompt + ids[prompt:] and row[f"{side}_attention_mask"] == [1] * len(ids)
            assert step_costs.UNKNOWN < min(ids) and max(ids) < TINY["vocab_size"]
        assert row["chosen_input_ids"][prompt] != row["rejected_input_ids"][prompt]
    assert rows == some_rows()


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
def test_tokens_are_counted_as_the_trainers_batch_them(micro_batch):
    lengths = step_costs.read_lengths(LENGTHS, 10)
    rows = step_costs.made_up_rows([lengths[0], (20, 30, 30), *lengths[1:]], 4096)
    rows[0]["rejected_input_ids"][:40] = rows[0]["chosen_input_ids"][:40]  # the answers begin alike, too
    rows[1]["rejected_input_ids"] = rows[1]["chosen_input_ids"]  # one that should not be, and that counts all the same
    stock = packed = 0
    for start in range(0, len(rows), micro_batch):
        batch = rows[start : start + micro_batch]
        padded = DPODataCollatorWithPadding(pad_token_id=0)(batch)
        stock += ORPOTrainer.concatenated_inputs(padded)["concatenated_input_ids"].numel()
        packed += PackingCollator()(batch)["input_ids"].numel()
    counts = step_costs.count_tokens(rows, micro_batch)
    real = sum(len(row[f"{side}_input_ids"]) for row in rows for side in ("chosen", "rejected"))
    assert counts == {"distinct": packed, "repeated": real - packed, "padding": stock - real}


# Models


@pytest.mark.parametrize("shape", ["tiny", "mid"])
def test_a_random_base_is_a_llama_of_that_shape(shape):
    model = step_costs.random_base(SHAPES[shape])
    usual = AutoModelForCausalLM.from_config(model.config)
    assert {name: it.shape for name, it in model.named_parameters()} == {
        name: it.shape for name, it in usual.named_parameters()
    }
    assert torch.equal(model.model.rotary_emb.inv_freq, usual.model.rotary_emb.inv_freq)
    assert not any(it.requires_grad or it.is_meta for it in [*model.parameters(), *model.buffers()])
    logits, expected = (it(torch.arange(3, 90)[None]).logits.detach() for it in (model, usual))
    assert logits.isfinite().all() and logits.std().item() == pytest.approx(expected.std().item(), rel=0.1)
    again = step_costs.random_base(SHAPES[shape])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_the_large_shape_is_llama_3_8b():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPES["llama3-8b"]))
    assert model.num_parameters() == 8_030_261_248


LARGER = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 8}
LARGER |= {"num_key_value_heads": 4, "vocab_size": 1000}
PEAK = """
import sys, torch
from utils.train import base as bases
from utils.train import memory, step_costs
step_costs.random_base(step_costs.SHAPES["tiny"], dtype=torch.bfloat16, four_bit=True)  # loads what is loaded once
with memory.measure_peak() as peak:
    model = step_costs.random_base(eval(sys.argv[1]), dtype=torch.bfloat16, four_bit=True)
print(peak.gb, sum(it.nbytes for it in model.parameters()) / 1e9)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux alone")
def test_a_base_in_4_bits_never_exists_whole():
    # each block is given back when it is freed, so that resident is what is held
    environment = os.environ | memory.MALLOC
    command = [sys.executable, "-c", PEAK, str(LARGER)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    peak, stored = map(float, run.stdout.split())
    whole = 2 * step_costs.flops_per_token(LARGER)["layers"] / 4 / 1e9  # in bf16
    assert stored < 0.3 * whole and whole > 0.37
    assert peak < stored + 0.08  # a matrix of 6 MB, and what quantising it takes


def test_a_base_in_4_bits_is_stored_as_notebooks_load_one():
    model = step_costs.random_base(SHAPES["mid"], dtype=torch.bfloat16, four_bit=True)
    layers = [it for it in model.modules() if isinstance(it, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 7 * 4 and not any(it.support_avx512bf16_for_cpu for it in layers)
    states = [it.weight.quant_state for it in layers]
    assert all(it.quant_type == "nf4" and it.nested and it.dtype == torch.bfloat16 for it in states)
    assert type(model.lm_head) is torch.nn.Linear and model.lm_head.weight.dtype == torch.bfloat16
    values = [bitsandbytes.functional.dequantize_4bit(it.weight, it.weight.quant_state) for it in layers]
    assert [it.shape for it in values] == [(it.out_features, it.in_features) for it in layers]
    assert torch.cat([it.flatten() for it in values]).float().std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_in_4_bits_trains_with_either_trainer(dtype):
    losses = []
    for kind in (ORPOTrainer, FusedORPOTrainer):
        model = step_costs.random_base(TINY, dtype=dtype, four_bit=True)
        trainer = trainer_of(kind, model=model, recompute=True)
        adapter = [it for it in trainer.model.parameters() if it.requires_grad]
        assert len(adapter) == 2 * 7 * TINY["num_hidden_layers"] and all(it.dtype == torch.float32 for it in adapter)
        assert trainer.args.bf16 == (dtype == torch.bfloat16)
        losses.append(step_costs.measure_steps(trainer, 3)["losses"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5 if dtype == torch.float32 else 0.03)
    assert losses[0][0] > losses[0][-1]  # it learns


# Steps


def test_two_trainers_have_the_same_losses_step_by_step():
    lengths = SHORT + [(4, 6, 50), (60, 3, 2), (9, 9, 9), (1, 70, 2)]
    stock = step_costs.measure_steps(trainer_of(ORPOTrainer, lengths), repeats=3)
    fused = step_costs.measure_steps(trainer_of(FusedORPOTrainer, lengths), repeats=3)
    assert len(stock["losses"]) == 1 + 3 * 2 and len(stock["seconds"]) == 3
    assert fused["losses"] == pytest.approx(stock["losses"], abs=1e-5)
    other = step_costs.measure_steps(trainer_of(ORPOTrainer, lengths[::-1]), repeats=3)
    assert other["losses"] != pytest.approx(stock["losses"], abs=1e-3)  # so the order of the rows shows
    trainer = trainer_of(ORPOTrainer, lengths)
    with torch.no_grad():
        first = [
            trainer.get_batch_loss_metrics(trainer.model, trainer.data_collator(some_rows(lengths)[start : start + 2]))[
                0
            ]
            for start in (0, 2)
        ]
    assert stock["losses"][0] == pytest.approx(sum(first).item() / 2, abs=1e-5)


def test_seconds_are_those_of_the_steps_after_the_first_and_the_peak_is_that_of_all():
    class Slow(ORPOTrainer):
        def training_step(self, *args, **kwargs):
            time.sleep(2.0 if self.state.global_step == 0 else 0.05)
            if self.state.global_step == 1:
                torch.ones(10**8)
            return super().training_step(*args, **kwargs)

    trainer = trainer_of(Slow)
    taken = step_costs.measure_steps(trainer, repeats=2)
    assert len(taken["seconds"]) == 2 and all(0.1 <= seconds < 4.0 for seconds in taken["seconds"])
    assert 0.3 < taken["peak_gb"] < 0.8  # 0.4 GB, less what the allocator had to spare
    assert len(trainer.train_dataset) == 4
    again = step_costs.measure_steps(trainer)  # the same trainer, trained on
    assert len(again["seconds"]) == 1 and len(again["losses"]) == 2 and again["losses"][0] < taken["losses"][0]


def test_rows_that_leave_a_step_half_empty_are_refused():
    with pytest.raises(ValueError, match="4 pairs do not fill optimizer steps of 6: leave 4 out"):
        step_costs.measure_steps(trainer_of(ORPOTrainer, accumulation=3))


# The floor


def test_rates_are_measured():
    started = time.perf_counter()
    rates = step_costs.measured_rates()
    assert 1.5 < time.perf_counter() - started < 20
    assert rates["matrix"] > 1e9 and rates["bandwidth"] > 1e8
    left = torch.randn(1024, 1024)
    started = time.perf_counter()
    for _ in range(20):
        left @ left
    mine = 20 * 2 * 1024**3 / (time.perf_counter() - started)
    assert 0.1 < mine / rates["matrix"] < 10


def test_the_work_of_a_token_is_that_of_llama_3_8b():
    work = {again: step_costs.flops_per_token(SHAPES["llama3-8b"], again) for again in (False, True)}
    assert [round(work[again]["layers"] / 1e9, 1) for again in (False, True)] == [27.9, 41.9]
    assert [round(work[again]["LoRA"] / 1e9, 2) for again in (False, True)] == [0.25, 0.34]
    assert round(work[True]["head"] / 1e9, 1) == 2.1
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPES["llama3-8b"]))
    counts = memory.count_weights(model, bases.linear_layers(model), step_costs.LORA_R)
    assert work[False] == {"layers": 4 * counts["layers"], "LoRA": 6 * counts["lora"], "head": 4 * counts["head"]}
    floors = [step_costs.floor_seconds(SHAPES["llama3-8b"], 678_000, 121e12, again) for again in (False, True)]
    assert floors == pytest.approx([169.5, 248.5], abs=0.5)  # on an L4; attention would add 3 s


@pytest.mark.parametrize("recompute", [False, True])
def test_the_work_of_a_step_is_what_torch_counts(recompute):
    rows = some_rows([(30, 10, 12), (20, 20, 9)])  # short, so that attention is little
    trainer = step_costs.build_trainer(
        FusedORPOTrainer, step_costs.random_base(SHAPES["mid"]), rows, 2, 1, recompute, keep_gb=0
    )
    if recompute:
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.model.train()
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    with FlopCounterMode(display=False) as counter:
        trainer.get_batch_loss_metrics(trainer.model, batch)[0].backward()
    tokens = step_costs.count_tokens(rows, 2)["distinct"]
    expected = tokens * sum(step_costs.flops_per_token(SHAPES["mid"], recompute).values())
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.04)
