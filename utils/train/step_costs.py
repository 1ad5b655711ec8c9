"""What a training step costs: models and pairs made up in real sizes, trainers on them, their time and memory.

Weights and tokens are random, for neither changes what a step costs: nothing is downloaded, and nothing is said about
quality. Left out: evaluation, saving, several devices, and models that are no Llamas.
"""

import json
import os
import time
from pathlib import Path

from utils.train import memory

# Values of LlamaConfig. "mid" trains on a CPU in seconds, and its vocabulary is as large as Llama 2's.
SHAPES = {
    "tiny": dict(zip(memory.LLAMA_3_8B, (128, 352, 2, 4, 2, 4096), strict=True)),
    "mid": dict(zip(memory.LLAMA_3_8B, (512, 1408, 4, 8, 4, 32000), strict=True)),
    "llama3-8b": memory.LLAMA_3_8B,
}
LORA_R, LORA_ALPHA = 16, 32
PAD, BEGIN, END, UNKNOWN = range(4)  # tokens with a meaning; made-up rows have none of them


def read_lengths(path, pairs: int, max_length: int = 1024) -> list[tuple[int, int, int]]:
    """Read the (prompt, chosen, rejected) token counts of pairs that fit whole, from the start again when they end."""
    known = json.loads(Path(path).read_text())["pairs"]
    fitting = [tuple(pair) for pair in known if pair[0] + max(pair[1:]) <= max_length]
    return [fitting[number % len(fitting)] for number in range(pairs)]


def made_up_rows(lengths: list[tuple[int, int, int]], vocab_size: int) -> list[dict]:
    """Make rows of random tokens as `ORPOTrainer.tokenize_row` leaves them; answers differ from their first token."""
    import random

    draw, words, rows = random.Random(0), range(UNKNOWN + 1, vocab_size), []
    for prompt_tokens, *answers in lengths:
        prompt = draw.choices(words, k=prompt_tokens)
        row = {"prompt": "", "prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side, count, first in zip(("chosen", "rejected"), answers, draw.sample(words, 2), strict=True):
            answer = [first, *draw.choices(words, k=count - 1)]
            row |= {f"{side}_input_ids": prompt + answer, f"{side}_attention_mask": [1] * (len(prompt) + count)}
            row[f"{side}_labels"] = [-100] * len(prompt) + answer
        rows.append(row)
    return rows


def count_tokens(rows: list[dict], micro_batch: int) -> dict[str, int]:
    """Count the tokens that the stock trainer computes in passes of `micro_batch` pairs; a packed row has the distinct.

    They are `distinct` (each prompt once), `repeated` (what both sides begin with, a second time) and `padding`.
    """
    distinct = real = computed = 0
    for start in range(0, len(rows), micro_batch):
        pairs = [(row["chosen_input_ids"], row["rejected_input_ids"]) for row in rows[start : start + micro_batch]]
        computed += 2 * len(pairs) * max(len(tokens) for pair in pairs for tokens in pair)
        for pair in pairs:
            real += sum(map(len, pair))
            # the last token in common is packed twice: what follows it differs, and is predicted from it
            distinct += sum(map(len, pair)) - max(len(os.path.commonprefix(pair)) - 1, 0)
    return {"distinct": distinct, "repeated": real - distinct, "padding": computed - real}


def describe_packed(batch: dict):
    """Return a table of a packed row: each place's token and position, what it predicts, and its weights."""
    import pandas as pd

    places = batch["places"].tolist()
    target = dict(zip(places, batch["targets"].tolist(), strict=True))
    table = pd.DataFrame({"token": batch["input_ids"][0].tolist(), "position": batch["position_ids"][0].tolist()})
    table["predicts"] = [str(target.get(place, "")) for place in table.index]
    for term in ("nll", "chosen", "rejected"):
        weight = dict(zip(places, batch[term].tolist(), strict=True))
        table[term] = [round(weight.get(place, 0.0), 3) for place in table.index]
    return table


def random_base(shape: dict, device="cpu", dtype=None, four_bit: bool = False):
    """Make a Llama of random weights, frozen, matrix by matrix: an 8B in 4 bits never exists whole.

    The weights are the same each time: normal with a standard deviation of 0.02, as Llama's are at the beginning.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from utils.train.model_loading import keep_4bit_layout

    dtype = dtype or torch.float32
    values = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD, "max_position_embeddings": 8192}
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    config = AutoConfig.for_model("llama", **values | shape)
    with torch.device("meta"):  # the form alone, without memory
        llama = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    random = torch.Generator(device).manual_seed(0)
    for name, module in [(name, it) for name, it in llama.named_modules() if hasattr(it, "weight")]:
        weight = torch.ones(module.weight.shape, dtype=dtype, device=device)  # as norms begin
        if weight.ndim == 2:
            weight.normal_(0, config.initializer_range, generator=random)
        if four_bit and isinstance(module, torch.nn.Linear) and name != "lm_head":
            llama.set_submodule(name, _four_bit_layer(weight))
        else:
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    llama.model.rotary_emb = type(llama.model.rotary_emb)(config).to(device)  # frequencies are no parameters
    if four_bit:  # what `from_pretrained` notes, and PEFT, TRL and the trainer ask for
        llama.is_loaded_in_4bit, llama.quantization_method = True, "bitsandbytes"
    return keep_4bit_layout(llama)


def _four_bit_layer(weight):
    import bitsandbytes

    kind = {"quant_type": "nf4", "compress_statistics": True}
    layer = bitsandbytes.nn.Linear4bit(*weight.T.shape, bias=False, compute_dtype=weight.dtype, device="meta", **kind)
    layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, module=layer, **kind)
    return layer.to(weight.device)  # which quantises


def build_trainer(kind, model, rows: list[dict], micro_batch=2, accumulation=4, recompute=True, **options):
    """Build a trainer with the article's settings on tokenised pairs, which it takes in their order.

    LoRA begins in the same random state each time, so losses can be compared step by step. Autocast has the model's
    dtype, and on a CPU Adam has whole states, not 8-bit ones. `kind` is `ORPOTrainer` or a class like it.
    """
    import tempfile

    import torch
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl.experimental.orpo import ORPOConfig

    disable_progress_bars()
    on_cpu = model.device.type == "cpu"
    arguments = ORPOConfig(
        output_dir=tempfile.gettempdir(),  # where nothing is written
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=recompute,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        optim="adamw_torch" if on_cpu else "paged_adamw_8bit",
        learning_rate=2e-4,  # so high that a wrong gradient shows in the losses of the next steps
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
    )
    lora = LoraConfig(r=LORA_R, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    text = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])  # it tokenises text, and has rows after
    built = kind(model, arguments, train_dataset=text, processing_class=_tokenizer(), peft_config=lora, **options)
    built.train_dataset = Dataset.from_list(rows)
    built.remove_callback(PrinterCallback)
    return built


def _tokenizer():
    """A tokenizer that knows no word; a trainer reads from it how to pad."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = models.WordLevel({name: token for token, name in enumerate(names.values())}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), **names)


def measure_steps(trainer, repeats: int = 1) -> dict:
    """Train on all rows, several times on end, after one optimizer step that warms up and is not timed.

    Timed is all that `train()` does: collating, forward and backward passes, clipping, Adam, logging. Returns `seconds`
    of each repeat, `losses` of all optimizer steps with the first one, and `peak_gb` above what was held.
    """
    import torch
    from datasets import concatenate_datasets
    from transformers import TrainerCallback

    rows, arguments, ends = trainer.train_dataset, trainer.args, []
    step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    if len(rows) % step:
        raise ValueError(f"{len(rows)} pairs do not fill optimizer steps of {step}: leave {len(rows) % step} out.")

    class Clock(TrainerCallback):
        def on_log(self, *args, **kwargs):
            if arguments.device.type == "cuda":  # it does what it is told later than Python tells it
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer.add_callback(Clock)
    trainer.train_dataset = concatenate_datasets([rows.select(range(step)), *[rows] * repeats])
    with memory.measure_peak() as peak:
        trainer.train()
    trainer.train_dataset = rows
    trainer.remove_callback(Clock)
    laps = ends[: 1 + repeats * len(rows) // step : len(rows) // step]
    return {
        "seconds": [end - start for start, end in zip(laps, laps[1:], strict=False)],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "peak_gb": peak.gb,
    }


def measured_rates(device="cpu", dtype=None) -> dict[str, float]:
    """Measure, for a second each, the two rates that bound a step: of a large matrix product, and of a large copy.

    `matrix` is in FLOP/s (an n x n product takes 2 n^3), `bandwidth` in bytes/s, read and written.
    """
    import torch
    from torch.utils.benchmark import Timer  # which warms up, and waits for a GPU

    size = 2048 if torch.device(device).type == "cpu" else 8192
    values = torch.randn(2, size, size, device=device, dtype=dtype or torch.float32)
    copied = torch.zeros(2, 64 * size**2, device=device, dtype=torch.uint8)
    tasks = {"matrix": ("a @ b", values, 2 * size**3), "bandwidth": ("a.copy_(b)", copied, copied.nbytes)}
    rates = {}
    for name, (task, (a, b), amount) in tasks.items():
        timer = Timer(task, globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
        rates[name] = amount / timer.blocked_autorange(min_run_time=1).median
    return rates


def measure_operation(task, flops: float, sizes, device="cpu", dtype=None) -> tuple[float, float]:
    """Return an operation's FLOPs for each byte that it reads or writes, and its measured FLOPs a second."""
    import torch
    from torch.utils.benchmark import Timer

    inputs = [torch.randn(size, device=device, dtype=dtype) for size in sizes]
    moved = sum(it.nbytes for it in [*inputs, task(*inputs)])
    timer = Timer("task(*inputs)", globals={"task": task, "inputs": inputs}, num_threads=torch.get_num_threads())
    return flops / moved, flops / timer.blocked_autorange(min_run_time=0.2).median


def measure_rung(kind, shape: dict, rows, device="cpu", dtype=None, passes=(2, 4), repeats=1, change=None, **more):
    """Measure a trainer on a new model, and leave nothing behind; the fastest of the repeats counts.

    `passes` are pairs in a pass and passes in a step; `change` is called with the model; `layers_kept` counts the
    layers whose activations the fused trainer kept.
    """
    import gc

    import torch

    model = random_base(shape, device, dtype, four_bit=device == "cuda")
    trainer = build_trainer(kind, model, rows, *passes, **more)
    if change:
        change(trainer.model)
    found = measure_steps(trainer, repeats)
    found["seconds"] = min(found["seconds"])
    found["layers_kept"] = sum(not layer.gradient_checkpointing for layer in getattr(trainer, "layers", []))
    del model, trainer
    gc.collect()
    torch.cuda.empty_cache()
    return found


def build_small(kind, rows, device="cpu"):
    """Build a trainer on the tiny shape in fp32, every time with the same weights; LoRA's B is not 0, so A learns."""
    import torch

    trainer = build_trainer(kind, random_base(SHAPES["tiny"], device), rows, recompute=False)
    torch.manual_seed(0)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return trainer


def loss_and_gradient(trainer, batch: dict):
    """Run one pass over a collated batch, without an optimizer step; return the loss and the gradient as one vector."""
    import torch

    trainer.model.zero_grad()
    loss, _ = trainer.get_batch_loss_metrics(trainer.model, trainer._prepare_inputs(batch))
    loss.backward()
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    return loss.item(), torch.cat([weight.grad.flatten() for weight in trained])


def count_reads(trainer, rows) -> int:
    """Count how often a pass fetches a number from the device, which makes Python wait for a GPU."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class CountReads(TorchDispatchMode):
        reads = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.reads += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    with CountReads() as counter:
        trainer.get_batch_loss_metrics(trainer.model, batch)
    return counter.reads


def flops_per_token(shape: dict, recompute: bool = False) -> dict[str, float]:
    """Count the floating-point operations of one distinct token in a step, by part.

    A weight of a matrix takes 2 in the forward pass and 2 in the backward pass for the gradient of its input; one that
    is trained 2 more, for its own gradient; one that is recomputed 2 more. So it is 4 (recomputed 6) for each frozen
    weight of a layer, 6 (8) for LoRA's, 4 for the head's. Attention is left out: 2 % for Llama 3 8B and these pairs.
    """
    hidden, middle, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    shared = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    matrices = [(hidden, hidden), (hidden, shared)] * 2 + [(hidden, middle)] * 3  # q, k, o, v; gate, up, down
    return {
        "layers": layers * (4 + 2 * recompute) * sum(inputs * outputs for inputs, outputs in matrices),
        "LoRA": layers * (6 + 2 * recompute) * LORA_R * sum(inputs + outputs for inputs, outputs in matrices),
        "head": 4 * hidden * shape["vocab_size"],
    }


def floor_seconds(shape: dict, tokens: int, matrix_rate: float, recompute: bool = False) -> float:
    """Return the least seconds that distinct tokens take: their `flops_per_token` at `measured_rates`' matrix rate."""
    return tokens * sum(flops_per_token(shape, recompute).values()) / matrix_rate
