"""The fused ORPO trainer computes what TRL's does: loss, metrics, gradients, whole runs; and refuses what it cannot.

`logits/*` are compared nowhere: TRL averages the raw scores of padding too, so its figures change with the batch that
a pair happens to lie in, and no padding exists in a packed row.
"""

import copy

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from utils.practice.small_world import preference_pairs
from utils.train import model_loading
from utils.train.fused_orpo import FusedORPOTrainer, PackingCollator

disable_progress_bars()

SHAPE = {"vocab_size": 960, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
GPT2 = {"vocab_size": 960, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
SERVED = {  # name of the case: architecture, and what differs from SHAPE
    "llama, heads in groups": ("llama", {}),
    "llama, one head for the values": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2, its window switched off": ("qwen2", {"sliding_window": 4, "use_sliding_window": False}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "mistral, a window longer than any pair": ("mistral", {"sliding_window": 256}),
    "phi, a bias in the head": ("phi", {"num_key_value_heads": 4}),
    "gpt2, learnt positions": ("gpt2", GPT2),
    "mixtral, no router loss": ("mixtral", {"sliding_window": None, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite, nothing scaled": ("granite", {"logits_scaling": 1.0}),
    "gemma2, nothing capped": (
        "gemma2",
        {"final_logit_softcapping": None, "attn_logit_softcapping": None, "sliding_window": 256},
    ),
}


def toy(architecture: str, shape: dict) -> torch.nn.Module:
    """A causal language model with random weights, large enough that no probability is near the uniform one."""
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SHAPE | ends | shape))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 or name.endswith("bias"):
                weight.normal_(0, 0.15)
    return model


def adapted(model, **more):
    """Add a LoRA adapter whose B is not zero, or no A would have a gradient."""
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **{"target_modules": "all-linear"} | more))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    return model


@pytest.fixture(scope="session")
def make(tokenizer, tmp_path_factory):
    """Build a trainer: `make(trainer class, model, pairs, **arguments of ORPOConfig)`."""

    def make_one(trainer, model, pairs=None, evaluated=None, options=None, **arguments):
        given = {"output_dir": str(tmp_path_factory.mktemp("run")), "use_cpu": True, "bf16": False, "report_to": "none"}
        given |= {"max_length": 256, "disable_tqdm": True, "gradient_checkpointing": False, "save_strategy": "no"}
        given |= {"remove_unused_columns": False}
        pairs = pairs or preference_pairs(2, seed=0)
        return trainer(
            model=model,
            args=ORPOConfig(**given | arguments),
            train_dataset=Dataset.from_list(pairs),
            eval_dataset=Dataset.from_list(evaluated) if evaluated else None,
            processing_class=tokenizer,
            **options or {},
        )

    return make_one


def adapter_of(model) -> dict:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def relative(fused, stock) -> float:
    """The length of the difference, as a part of the length."""
    return ((fused - stock).norm() / stock.norm()).item()


class Couple:
    """TRL's trainer and the fused one, each with its own copy of a model, for comparing single batches."""

    def __init__(self, make, model, **arguments):
        self.stock = make(ORPOTrainer, copy.deepcopy(model), **arguments)
        self.fused = make(FusedORPOTrainer, model, **arguments)

    def run(self, trainer, batch):
        """Return the loss, the metrics and the gradients of a batch."""
        trainer.model.train()
        trainer.model.zero_grad()
        trainer.accelerator.gradient_state.dataloader_references = [None]  # an earlier run's would cut the metrics
        loss, metrics = trainer.get_batch_loss_metrics(trainer.model, trainer._prepare_inputs(batch))
        loss.backward()
        gradients = {name: weight.grad.clone() for name, weight in adapter_of(trainer.model).items()}
        return loss.item(), {name: float(value) for name, value in metrics.items()}, gradients

    def errors(self, features: list[dict], change=lambda batch: None) -> dict[str, float]:
        """Compare a batch that both collate from the same tokenised pairs; `change` spoils the packed one."""
        packed = self.fused.data_collator(features)
        change(packed)
        loss, metrics, gradients = self.run(self.fused, packed)
        stock_loss, stock_metrics, stock_gradients = self.run(self.stock, self.stock.data_collator(features))
        assert list(metrics) == list(stock_metrics) and list(gradients) == list(stock_gradients)
        vectors = [torch.cat([it.flatten() for it in each.values()]) for each in (gradients, stock_gradients)]
        length = vectors[1].norm().item()
        assert length > 1e-3  # there is something to compare
        return {
            "loss": abs(loss - stock_loss),
            "metrics": max(abs(metrics[it] - stock_metrics[it]) for it in metrics if "logits/" not in it),
            "gradient": relative(*vectors),
            "one tensor": max(
                (gradients[it] - expected).norm().item() / max(expected.norm().item(), 1e-3 * length)
                for it, expected in stock_gradients.items()  # some are 0: one token attends to itself whatever q is
            ),
        }


def assert_equal(errors: dict[str, float]) -> None:
    limits = {"loss": 1e-5, "metrics": 1e-5, "gradient": 1e-5, "one tensor": 1e-4}
    assert all(errors[name] <= limits[name] for name in limits), errors


# --- tokenised pairs -------------------------------------------------------------------------------------------


def pair_of(chosen: list[int], rejected: list[int], prompts: tuple[int, int]) -> dict:
    """A row as TRL's `tokenize_row` leaves it; the first `prompts` tokens of each side are the prompt."""
    row = {"prompt": "made up", "prompt_input_ids": chosen[: prompts[0]], "prompt_attention_mask": [1] * prompts[0]}
    for side, tokens, prompt in (("chosen", chosen, prompts[0]), ("rejected", rejected, prompts[1])):
        row |= {f"{side}_input_ids": tokens, f"{side}_attention_mask": [1] * len(tokens)}
        row[f"{side}_labels"] = [-100] * prompt + tokens[prompt:]
    return row


def tokens(low: int, high: int):
    return st.lists(st.integers(3, 959), min_size=low, max_size=high)


@st.composite
def pairs(draw) -> dict:
    """A pair of any shape: equal openings, one side all the other begins with, a prompt token that was merged."""
    prompt, opening = draw(tokens(1, 30)), draw(tokens(0, 10))
    chosen, rejected = opening + draw(tokens(1, 40)), opening + draw(tokens(1, 40))
    form = draw(st.sampled_from(["as drawn", "a prefix", "the same", "merged", "split"]))
    if form == "a prefix":
        rejected = chosen[: len(chosen) // 2 + 1]
    elif form == "the same":
        rejected = chosen
    lengths = len(prompt), len(prompt)
    chosen, rejected = prompt + chosen, prompt + rejected
    if form == "merged":  # the prompt's last token became another one with the answer's beginning
        rejected[len(prompt) - 1] = draw(st.integers(3, 959))
    elif form == "split" and len(prompt) > 1:  # one side's prompt is a token shorter
        lengths = len(prompt), len(prompt) - 1
    return pair_of(chosen, rejected, lengths)


def some_pairs(count: int, seed: int = 0, opening: int = 2) -> list[dict]:
    """Pairs of random tokens whose answers begin alike."""
    random = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = torch.randint(low, high + 1, (), generator=random).item()
        return torch.randint(3, 960, (length,), generator=random).tolist()

    rows = []
    for _ in range(count):
        prompt, start = draw(1, 20), draw(opening, opening)
        rows.append(pair_of(prompt + start + draw(1, 30), prompt + start + draw(1, 30), (len(prompt),) * 2))
    return rows


# --- one batch -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def couple(make) -> Couple:
    return Couple(make, adapted(toy("llama", {})))


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(features=st.lists(pairs(), min_size=1, max_size=8))
def test_pairs_of_any_shape_give_the_same_numbers(couple, features):
    assert_equal(couple.errors(features))


@pytest.mark.parametrize("case", SERVED)
def test_every_architecture_that_is_served_gives_the_same_numbers(make, case):
    couple = Couple(make, adapted(toy(*SERVED[case])))
    for count in (1, 5):
        assert_equal(couple.errors(some_pairs(count, seed=count)))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_4_bit_base_gives_the_same_numbers(make, small_base, recompute):
    four_bit = {"four_bit": True, "device_map": {"": "cpu"}}
    models = [adapted(model_loading.load_base(str(small_base), torch.float32, **four_bit)) for _ in range(2)]
    kinds = {type(module).__name__ for module in models[0].modules()}
    assert "Linear4bit" in kinds
    couple = Couple.__new__(Couple)
    couple.stock, couple.fused = (
        make(kind, model, gradient_checkpointing=recompute, gradient_checkpointing_kwargs={"use_reentrant": False})
        for kind, model in zip((ORPOTrainer, FusedORPOTrainer), models, strict=True)
    )
    for trainer in (couple.stock, couple.fused) if recompute else ():  # as `train()` does
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(couple.errors(some_pairs(3)))


def test_a_pair_without_answer_is_no_number_as_in_trl(couple):
    whole, cut = some_pairs(2)
    for side in ("chosen", "rejected"):
        empty = cut | {
            f"{side}_{part}": cut[f"{side}_{part}"][: len(cut["prompt_input_ids"])]
            for part in ("input_ids", "labels", "attention_mask")
        }
        for trainer in (couple.stock, couple.fused):
            loss, metrics, _ = couple.run(trainer, trainer.data_collator([whole, empty]))
            assert loss != loss and metrics[f"logps/{side}"] != metrics[f"logps/{side}"]


# --- 16 bits, recomputation ------------------------------------------------------------------------------------


@pytest.fixture
def recomputing(make):
    """A couple that recomputes, as `train()` would have set it up, and a batch that both can collate."""
    couple = Couple(make, adapted(toy("llama", {"num_hidden_layers": 4})), gradient_checkpointing=True)
    for trainer in (couple.stock, couple.fused):
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    return couple, some_pairs(6, seed=6)


@pytest.mark.parametrize("kept", [0, 1, 3, 4, None])
def test_the_last_layers_that_fit_keep_their_activations(recomputing, kept):
    couple, features = recomputing
    fused, batch = couple.fused, couple.fused.data_collator(features)
    places = batch["input_ids"].numel() + batch["branches"].numel()
    fused.keep_gb = None if kept is None else (kept + 0.5) * fused.bytes_per_place * places / 1e9
    assert_equal(couple.errors(features))
    kept = 4 if kept is None else kept  # so small a model fits
    assert [layer.gradient_checkpointing for layer in fused.layers] == [True] * (4 - kept) + [False] * kept


# --- planted mistakes ------------------------------------------------------------------------------------------


# --- several micro-batches as one ------------------------------------------------------------------------------


def test_eight_pairs_in_groups_of_two_equal_four_micro_batches_of_two(make, couple):
    features = some_pairs(8, seed=5)
    losses, gradients = [], []
    for start in range(0, 8, 2):
        loss, _, gradient = couple.run(couple.stock, couple.stock.data_collator(features[start : start + 2]))
        losses.append(loss)
        gradients.append(torch.cat([it.flatten() for it in gradient.values()]))
    expected, direction = sum(losses) / 4, sum(gradients) / 4
    for group, equal in ((2, True), (None, False)):  # without groups the NLL is a mean over all tokens
        loss, _, gradient = couple.run(couple.fused, PackingCollator(group)(features))
        gradient = torch.cat([it.flatten() for it in gradient.values()])
        assert (abs(loss - expected) < 1e-5) is equal and (relative(gradient, direction) < 1e-5) is equal


# --- whole runs ------------------------------------------------------------------------------------------------

UNLIKE = ("logits/", "runtime", "per_second", "total_flos")  # by design, and by the clock


@pytest.fixture(scope="module")
def whole_runs(make, small_base):
    """The same short run by both trainers, and one of the fused that was interrupted after four of its eight steps."""
    trained, evaluated = preference_pairs(13, seed=3), preference_pairs(5, seed=4)
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 3}
    arguments |= {"num_train_epochs": 2, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 3}
    arguments |= {"learning_rate": 1e-3, "eval_on_start": True, "seed": 1, "save_strategy": "steps", "save_steps": 4}
    arguments |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}

    def run(trainer, checkpoint=None):
        model = adapted(AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32))
        runner = make(trainer, model, trained, evaluated, **arguments)
        runner.train(resume_from_checkpoint=checkpoint)
        runner.log_of_training = list(runner.state.log_history)  # before a test evaluates
        return runner

    stock, fused = run(ORPOTrainer), run(FusedORPOTrainer)
    return stock, fused, run(FusedORPOTrainer, f"{fused.args.output_dir}/checkpoint-4")


def assert_same_log(stock: list[dict], fused: list[dict]) -> None:
    assert [list(entry) for entry in fused] == [list(entry) for entry in stock]
    for expected, found in zip(stock, fused, strict=True):
        for name in expected:
            if not any(part in name for part in UNLIKE):
                assert found[name] == pytest.approx(expected[name], abs=1e-5), name


def assert_same_adapter(stock, fused) -> None:
    vectors = [torch.cat([it.detach().flatten() for it in adapter_of(run.model).values()]) for run in (fused, stock)]
    assert relative(*vectors) < 1e-4


def test_a_whole_run_logs_and_learns_the_same(whole_runs):
    stock, fused, _ = whole_runs
    logs = stock.log_of_training
    assert stock.state.global_step == 8 and sum("eval_loss" in entry for entry in logs) >= 3
    assert_same_log(logs, fused.log_of_training)
    assert_same_adapter(stock, fused)


def test_an_evaluation_gives_the_same_numbers(whole_runs):
    stock, fused, _ = whole_runs
    expected, found = stock.evaluate(), fused.evaluate()
    assert_same_log([expected], [found])
    features = list(stock.eval_dataset)
    parts = []
    for part in (features[:3], features[3:]):
        with torch.no_grad():
            parts.append(stock.get_batch_loss_metrics(stock.model.eval(), stock.data_collator(part))[0].item())
    assert found["eval_loss"] == pytest.approx((3 * parts[0] + 2 * parts[1]) / 5, abs=1e-5)  # by pairs, not batches


def test_a_resumed_run_ends_as_the_whole_one(whole_runs):
    _, fused, resumed = whole_runs
    logs = [
        [dict(sorted(entry.items())) for entry in run.log_of_training] for run in (fused, resumed)
    ]  # as in its file
    again = [entry for entry in logs[1] if "eval_loss" in entry and entry["step"] == 4]
    assert resumed.state.global_step == 8 and len(again) == 1  # evaluated when it starts anew
    assert_same_log(logs[0][:-1], [entry for entry in logs[1] if entry not in again][:-1])  # the last is on the time
    assert_same_adapter(fused, resumed)


class Operations(TorchDispatchMode):
    """Counts the operations that wait for the device: a value read on the host, or a shape that depends on values."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        name = operation.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(it, torch.Tensor) and it.dtype == torch.bool
            for it in (arguments[1] if len(arguments) > 1 and isinstance(arguments[1], list | tuple) else ())
        )
        if masked or name in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.waits.append(name)
        return operation(*arguments, **keywords or {})


def test_a_step_never_waits_for_the_device(couple):
    waits = []
    for trainer in (couple.stock, couple.fused):
        batch = trainer._prepare_inputs(trainer.data_collator(some_pairs(2)))
        with Operations() as operations:
            loss, _ = trainer.get_batch_loss_metrics(trainer.model.train(), batch)
            loss.backward()
        waits.append(operations.waits)
    assert len(waits[0]) >= 11 and waits[1] == []  # TRL reads each metric at once


# --- generation ------------------------------------------------------------------------------------------------


# --- refusals --------------------------------------------------------------------------------------------------

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
REFUSED = {  # name of the case: architecture, what differs from SHAPE, the model's name, the reason
    "a window": ("mistral", {"sliding_window": 16}, "MistralForCausalLM", "sees 16 tokens"),
    "a window that is switched on": (
        "qwen2",
        {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1},
        "Qwen2ForCausalLM",
        "sees 16 tokens",
    ),
    "attention in chunks": ("llama", {"attention_chunk_size": 16}, "LlamaForCausalLM", "sees 16 tokens"),
    "capped scores": ("gemma2", {"sliding_window": 512}, "Gemma2ForCausalLM", "capped or scaled"),
    "a scale": ("cohere", {"logit_scale": 0.0625}, "CohereForCausalLM", "capped or scaled"),
    "another scale": ("granite", {"logits_scaling": 8.0}, "GraniteForCausalLM", "capped or scaled"),
    "a router loss": ("mixtral", EXPERTS | {"output_router_logits": True}, "MixtralForCausalLM", "router"),
}
# Layers that look at the whole row whatever the branches are, which no setting tells: the trainer has to try.
MIXING = {  # name of the case: architecture, and what differs from SHAPE
    "attention of its own": ("falcon", {"num_kv_heads": 4}),
    "attention of its own, with a bias by distance": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2}),
    "attention that drops what it is not told of": ("stablelm", {}),
    "sinks": ("gpt_oss", {"num_local_experts": 4, "sliding_window": 512}),
    "a state that runs along the row": (
        "recurrent_gemma",
        {"lru_width": 64, "block_types": ["recurrent", "attention"], "attention_window_size": 512},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_trained_wrongly_is_refused(make, case):
    architecture, shape, name, reason = REFUSED[case]
    with pytest.raises(ValueError, match=f"{name}.*{reason}"):
        make(FusedORPOTrainer, adapted(toy(architecture, shape), target_modules=["q_proj"]))


@pytest.mark.parametrize("trained", ["all", "the head", "the embeddings", "an adapter in the head"])
def test_a_head_that_is_trained_is_refused(make, trained):
    model = toy("llama", {})
    if trained == "the head":
        model = adapted(model, target_modules=["q_proj"], modules_to_save=["lm_head"])
    elif trained == "the embeddings":
        model = adapted(model, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    elif trained == "an adapter in the head":
        model = adapted(model, target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match="LlamaForCausalLM.*head or embeddings are trained"):
        make(FusedORPOTrainer, model)


@pytest.mark.parametrize("case", MIXING)
def test_layers_that_mix_the_pairs_of_a_row_are_refused(make, case):
    for dtype in (torch.float32, torch.bfloat16):  # whose numbers are compared less strictly
        model = toy(*MIXING[case]).to(dtype)
        with pytest.raises(ValueError, match=f"does not serve {type(model).__name__}: "):
            make(FusedORPOTrainer, adapted(model), bf16=dtype == torch.bfloat16)
