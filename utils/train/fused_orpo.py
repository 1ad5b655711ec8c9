"""ORPO without wasted work: TRL's `ORPOTrainer` with another collator and another loss step, and the same numbers.

The stock trainer pads every answer to the longest, runs each prompt twice, and keeps fp32 logits of every token over
the whole vocabulary. Here a micro-batch is one row, `[prefix | chosen | rejected]` for each pair, without padding and
with the prefix once; each branch attends to its prefix and to itself; and log-probabilities are computed some hundred
tokens at a time, with their gradient. Tokenisation, the odds-ratio loss, logging, evaluation and saving stay TRL's.

Left out, and refused in a sentence: encoder-decoders, mixtures of experts with a router loss, attention in windows or
with sinks, scaled or capped logits, a head or embeddings that are trained, several devices.
"""

import math
from dataclasses import dataclass
from functools import partial

import psutil
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from trl.experimental.orpo import ORPOTrainer
from trl.experimental.utils import DPODataCollatorWithPadding

NAME = "orpo_branches"  # under which the attention is registered
REFUSAL = "The fused trainer does not serve {}: {}. Set TRAINER = 'trl'."
CHUNK_ROWS = 512  # of logits that exist at a time: in fp32 263 MB at a vocabulary of 128,256


class NotServed(ValueError):
    """A model that the fused trainer would train wrongly; the message says why, and what to take instead."""


@dataclass
class PackingCollator:
    """Packs pairs into one row; `nll_group` pairs share one mean of the NLL, `None` for all of the micro-batch."""

    nll_group: int | None = None
    pad_token_id: int = 0  # of prompts that are asked during an evaluation; a packed row has no padding

    def __call__(self, features: list[dict]) -> dict:
        """Pack tokenised pairs, rows of TRL's `tokenize_row`.

        The prefix is what both sides have in common, less one token, so that every place predicts one token at most;
        it also spans what the two answers have in common at their beginning, or a prompt token that was merged.

        Returns, for N pairs, T packed tokens, P predictions and branches of at most L tokens: `pairs` (N); `input_ids`
        and `position_ids` (1, T); `branches` (2N, L): places of each branch's tokens, padded; `back` (T): where in the
        flattened branches each place's output is; `places` (P) that predict `targets` (P) for the pair `owner` (P),
        with the weights `nll`, `chosen` and `rejected` (P) in the three means; and the prompts as TRL's collator
        leaves them, for `generate_during_eval`.
        """
        group = self.nll_group or len(features)
        nll_tokens = [len(feature["chosen_input_ids"]) - 1 for feature in features]
        groups = [sum(nll_tokens[start : start + group]) for start in range(0, len(features), group)]
        ids, positions, branches, back, predictions = [], [], [], [], []
        for number, feature in enumerate(features):
            chosen, rejected = (feature[f"{side}_input_ids"] for side in ("chosen", "rejected"))
            masks = [[label != -100 for label in feature[f"{side}_labels"]] for side in ("chosen", "rejected")]
            counts = [sum(mask[1:]) or math.nan for mask in masks]  # a mean of nothing is no number, as in TRL
            nll = 1 / (len(groups) * groups[number // group])
            shared = _common(chosen, rejected) - 1
            prefix = list(range(len(ids), len(ids) + shared))
            ids += chosen[:shared]
            positions += range(shared)
            back += [(2 * number, place) for place in range(shared)]
            for place in range(shared):
                weights = [mask[place + 1] / count for mask, count in zip(masks, counts, strict=True)]
                predictions.append((prefix[place], chosen[place + 1], number, nll, *weights))
            for side, tokens in enumerate((chosen, rejected)):
                own = list(range(len(ids), len(ids) + len(tokens) - shared))
                ids += tokens[shared:]
                positions += range(shared, len(tokens))
                branches.append(prefix + own)
                back += [(2 * number + side, place) for place in range(shared, len(tokens))]
                for place, target, counted in zip(own, tokens[shared + 1 :], masks[side][shared + 1 :], strict=False):
                    weight = counted / counts[side]
                    both = (nll, weight, 0.0) if side == 0 else (0.0, 0.0, weight)
                    predictions.append((place, target, number, *both))
        longest = max(map(len, branches))
        places, targets, owner, *weights = zip(*predictions, strict=True)
        batch = {
            "pairs": torch.arange(len(features)),  # first, for the trainer counts rows by it
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor([positions]),
            "branches": torch.tensor([branch + branch[-1:] * (longest - len(branch)) for branch in branches]),
            "back": torch.tensor([branch * longest + place for branch, place in back]),
            "places": torch.tensor(places),
            "targets": torch.tensor(targets),
            "owner": torch.tensor(owner),
        }
        batch |= {
            name: torch.tensor(weight) for name, weight in zip(("nll", "chosen", "rejected"), weights, strict=True)
        }
        prompts = [{key: value for key, value in it.items() if key.startswith("prompt")} for it in features]
        return batch | DPODataCollatorWithPadding(self.pad_token_id)(prompts)


def _common(left: list[int], right: list[int]) -> int:
    """Return how many tokens two sequences begin with in common, at least 1 for both begin somewhere."""
    shortest = min(len(left), len(right))
    common = next((place for place in range(shortest) if left[place] != right[place]), shortest)
    return max(common, 1)


def branch_attention(module, query, key, value, attention_mask, branches=None, back=None, **kwargs):
    """Attend within each branch of a packed row; without branches, as in generation, this is plain SDPA.

    `query`, `key` and `value` are (1, heads, T, size), with rotary positions in them; the output (1, T, heads, size).
    """
    if branches is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if key.shape[1] != query.shape[1]:
        key, value = (it.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for it in (key, value))
    if kwargs.get("s_aux") is not None:
        raise ValueError("attention sinks need a mask, and plain SDPA knows none")
    query, key, value = (it[0][:, branches].transpose(0, 1) for it in (query, key, value))  # (2N, heads, L, size)
    options = {"dropout_p": kwargs.get("dropout", 0.0), "scale": kwargs.get("scaling"), "is_causal": True}
    output = F.scaled_dot_product_attention(query, key, value, **options)
    return output.transpose(1, 2).flatten(0, 1)[back][None], None


AttentionInterface.register(NAME, branch_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class LogProbabilities(torch.autograd.Function):
    """Log-probabilities of targets, some rows at a time, with their gradient computed on the way.

    The head is frozen, so the gradient of one log-probability with respect to its hidden state is
    `weight[target] - softmax @ weight`, whatever the loss will be: it is kept, and scaled in the backward pass.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets):
        """Take (P, d) hidden states, (V, d) weight, (V) bias or `None`, (P) targets; return (P) in fp32."""
        log_probabilities = hidden.new_empty(len(targets), dtype=torch.float32)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for rows in torch.arange(len(targets), device=hidden.device).split(CHUNK_ROWS):
            chosen = targets[rows]
            normalised = F.log_softmax(F.linear(hidden[rows], weight, bias), -1, dtype=torch.float32)
            log_probabilities[rows] = normalised.gather(-1, chosen[:, None])[:, 0]
            if slopes is not None:
                slopes[rows] = weight[chosen] - normalised.exp_().to(weight.dtype) @ weight
            del normalised  # or it would still be there beside the next logits
        ctx.save_for_backward(slopes)
        return log_probabilities

    @staticmethod
    def backward(ctx, gradient):
        """Scale what was kept: the chain rule's last factor."""
        (slopes,) = ctx.saved_tensors
        return (gradient[:, None] * slopes).to(slopes.dtype), None, None, None


class FusedORPOTrainer(ORPOTrainer):
    """TRL's ORPO trainer on packed rows: same constructor, same settings, same metrics, same checkpoints.

    `nll_group` pairs share one mean of the NLL: 2 makes a pass of 8 pairs equal four of TRL's with 2. With
    `gradient_checkpointing`, a layer is recomputed only if its activations do not fit: the last layers keep theirs,
    because the backward pass needs them first. `keep_gb` is what layers may keep (0: nothing, `None`: what is free).

    `logits/*` differ by design: TRL averages the raw scores of padding too, here only real tokens count.
    """

    def __init__(self, *args, nll_group: int | None = None, keep_gb: float | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._set_up(nll_group, keep_gb)

    @classmethod
    def take_over(cls, trainer: ORPOTrainer, nll_group: int | None = None, keep_gb: float | None = None):
        """Turn TRL's trainer, which has its rows tokenised already, into this one, and return it."""
        trainer.__class__ = cls
        trainer._set_up(nll_group, keep_gb)
        return trainer

    def _set_up(self, nll_group: int | None, keep_gb: float | None) -> None:
        self.data_collator = PackingCollator(nll_group, self.padding_value)
        self.causal = self.accelerator.unwrap_model(self.model)
        if hasattr(self.causal, "get_base_model"):
            self.causal = self.causal.get_base_model()
        refuse(self.causal, self.args)
        self.layers = [it for it in self.causal.modules() if isinstance(it, GradientCheckpointingLayer)]
        self.keep_gb, self.bytes_per_place, self.mean_head = keep_gb, 0.0, None
        self._compare_with_trl()

    def _compare_with_trl(self) -> None:
        """Refuse a model whose layers mix what stands in one row, and count what a layer keeps of a place."""
        exact = self.causal.dtype == torch.float32 and not (self.args.bf16 or self.args.fp16)
        pad, step = DPODataCollatorWithPadding(self.padding_value), partial(self.get_batch_loss_metrics, self.model)
        stock, _ = self._try(pad(_made_up_pairs()), self._stock_step)
        self.causal.set_attn_implementation(NAME)
        batches = [PackingCollator()(it) for it in (_made_up_pairs(), _made_up_pairs(5), _made_up_pairs() * 4)]
        try:
            (fused, some), (changed, _), (_, more) = (self._try(batch, step) for batch in batches)
            far = abs(sum(fused[name] - stock[name] for name in ("nll_loss", "log_odds_chosen")))
            moved = abs(fused["logps/rejected"] - changed["logps/rejected"])  # only chosen answers were changed
        except (TypeError, ValueError, RuntimeError, AttributeError):
            far = moved = math.inf
        if not (far < (1e-3 if exact else 0.2) and moved < 1e-3):
            raise NotServed(REFUSAL.format(type(self.causal).__name__, "its layers mix what stands in one row"))
        places = _places(batches[2]) - _places(batches[0])
        self.bytes_per_place = (more - some) / places / len(self.layers)  # without what is kept once

    def _stock_step(self, batch):
        """Take TRL's step as `train()` would: its model computes in the mixed precision and gives logits in fp32."""

        def model(*args, **kwargs):
            with self.accelerator.autocast():
                output = self.model(*args, **kwargs)
            output.logits = output.logits.float()
            return output

        return super().get_batch_loss_metrics(model, batch)

    def _try(self, batch, step) -> tuple[dict, int]:
        """Return a step's loss and metrics, of the whole batch, and the bytes kept for its backward pass."""
        kept, training = {}, self.model.training

        def count(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        self.model.eval()  # dropout is off, and so is recomputation
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss, metrics = step(self._prepare_inputs(batch))
        self.model.train(training)
        return {name: float(value) for name, value in (metrics | {"loss": loss.detach()}).items()}, sum(kept.values())

    def _choose_recomputation(self, batch) -> None:
        """Recompute the first layers in the backward pass, as many as there is no room to keep."""
        if self.args.gradient_checkpointing:
            room = _free_bytes(batch["input_ids"].device) if self.keep_gb is None else self.keep_gb * 1e9
            kept = int(room // (self.bytes_per_place * _places(batch) + 1))
            for number, layer in enumerate(reversed(self.layers)):
                layer.gradient_checkpointing = number >= kept

    def get_batch_loss_metrics(self, model, batch, train_eval="train"):
        """Compute ORPO's loss and metrics of one packed row; metrics stay on the device until they are logged."""
        device = batch["input_ids"].device.type
        self._choose_recomputation(batch)
        with self.accelerator.autocast():
            decoder = getattr(self.causal, self.causal.base_model_prefix)
            hidden = decoder(
                input_ids=batch["input_ids"],
                position_ids=batch["position_ids"],
                attention_mask=batch["nll"].new_zeros(1, 1, 1, 1),  # four dimensions pass untouched; nothing reads it
                use_cache=False,
                branches=batch["branches"],
                back=batch["back"],
            ).last_hidden_state[0]
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        head = self.causal.get_output_embeddings()
        weight, bias = (it if it is None else it.to(dtype or it.dtype) for it in (head.weight, head.bias))
        hidden = hidden[batch["places"]].to(weight.dtype)
        log_probabilities = LogProbabilities.apply(hidden, weight, bias, batch["targets"])

        nll = -(log_probabilities * batch["nll"]).sum()
        zeros = log_probabilities.new_zeros(len(batch["pairs"]))
        chosen, rejected = (
            zeros.index_add(0, batch["owner"], log_probabilities * batch[side]) for side in ("chosen", "rejected")
        )
        ratio_terms, chosen_rewards, rejected_rewards, log_odds_ratio, log_odds = self.odds_ratio_loss(chosen, rejected)
        loss = nll - ratio_terms.mean()
        with torch.no_grad():
            if self.mean_head is None:  # frozen, so once is enough
                self.mean_head = weight.mean(0, dtype=torch.float32), 0.0 if bias is None else bias.float().mean()
            scores = hidden.float() @ self.mean_head[0] + self.mean_head[1]
            metrics = {
                "rewards/chosen": chosen_rewards.mean(),
                "rewards/rejected": rejected_rewards.mean(),
                "rewards/accuracies": (chosen_rewards > rejected_rewards).float().mean(),
                "rewards/margins": (chosen_rewards - rejected_rewards).mean(),
                "logps/rejected": rejected.mean(),
                "logps/chosen": chosen.mean(),
                "logits/rejected": (scores * batch["rejected"]).sum() / len(zeros),
                "logits/chosen": (scores * batch["chosen"]).sum() / len(zeros),
                "nll_loss": nll,
                "log_odds_ratio": log_odds_ratio,
                "log_odds_chosen": log_odds,
            }
        prefix = "eval_" if train_eval == "eval" else ""
        return loss, {f"{prefix}{name}": value.detach() for name, value in metrics.items()}

    def log(self, logs, start_time=None):
        """Fetch all stored metrics at once, in one synchronisation with the device, then log as TRL does."""
        if stored := self._stored_metrics["train" if "loss" in logs else "eval"]:
            values = torch.stack([torch.stack(it) for it in stored.values()]).tolist()
            stored.update(zip(stored, values, strict=True))
        super().log(logs, start_time)


def _made_up_pairs(moved: int = 0) -> list[dict]:
    """Return two tokenised pairs; `moved` changes the chosen answers and no length."""
    rows, ids = [], [3, 4, 5, 6, 7, 8]
    for chosen, rejected in ((ids, ids[::-1]), (ids[3:], ids[:4])):
        row = {"prompt": "", "prompt_input_ids": [9, 10], "prompt_attention_mask": [1, 1]}
        for side, answer in (("chosen", [token + moved for token in chosen]), ("rejected", rejected)):
            row |= {f"{side}_input_ids": [9, 10, *answer], f"{side}_attention_mask": [1] * (len(answer) + 2)}
            row |= {f"{side}_labels": [-100, -100, *answer]}
        rows.append(row)
    return rows


def _places(batch: dict) -> int:
    """Return what a layer's activations grow with: the tokens of the row, and those of its padded branches."""
    return sum(batch[name].numel() for name in ("input_ids", "branches"))


def _free_bytes(device) -> float:
    """Return how much memory activations may take, less what a backward pass holds beside them."""
    if device.type != "cuda":
        return 0.7 * psutil.virtual_memory().available
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return 0.9 * (torch.cuda.mem_get_info(device)[0] + unused) - 2e9


def refuse(model, arguments) -> None:
    """Raise `NotServed` for a model that this trainer would train wrongly, saying what to take instead."""
    config, head = model.config, model.get_output_embeddings()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    window = window or getattr(config, "attention_chunk_size", None)
    reasons = {
        "it is an encoder-decoder": config.is_encoder_decoder,
        "its router has a loss of its own": getattr(config, "output_router_logits", False),
        f"its attention sees {window} tokens": window is not None and window < (arguments.max_length or 512),
        "its logits are capped or scaled": any(
            getattr(config, name, None) not in (None, 1, 1.0)
            for name in ("final_logit_softcapping", "logit_scale", "logits_scaling", "attn_logit_softcapping")
        ),
        "its head or embeddings are trained": any(
            weight.requires_grad for weight in [*head.parameters(), *model.get_input_embeddings().parameters()]
        ),
        "it lies on several devices": len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1,
        "several devices train it": arguments.n_gpu > 1 or arguments.world_size > 1,
    }
    for reason, trips in reasons.items():
        if trips:
            raise NotServed(REFUSAL.format(type(model).__name__, reason))
