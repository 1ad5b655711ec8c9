"""What a model makes of held-out pairs: log-probabilities of both answers, accuracy, margin, and answers of its own.

A pair counts as right if the chosen answer has the higher mean log-probability of a token, the number that ORPO's
trainer logs as `logps`. Left out: benchmarks, see `benchmark_suite`, and judging the answers, which takes a reader.
"""

import os

from utils import intervals
from utils.train import model_loading

TOP_P = 0.9  # sampled answers leave out the least likely tokens, a tenth of the probability: the base's tail is noise


def needed_gb(skeleton, value_bytes: int, four_bit: bool, rows: int, tokens: int) -> float:
    """Predict the memory of scoring in GB (10^9 bytes): the weights, and the logits of one batch.

    Args:
        skeleton: of `utils.train.base.skeleton`.
        value_bytes: of a number in the compute dtype.
        four_bit: whether the linear layers are stored as NF4; embeddings and head are not.
        rows, tokens: of a batch.
    """
    in_fp32 = max(rows, 2)  # lm-eval's log-probabilities of a batch; here it is one row, twice
    logits = tokens * skeleton.config.vocab_size * (rows * value_bytes + in_fp32 * 4) / 1e9
    return model_loading.weights_gb(skeleton, four_bit, value_bytes) + logits


def answer_tokens(pair: dict, side: str, tokenizer) -> tuple[list[int], int]:
    """Return the tokens of a whole talk, and the place where its answer begins.

    The answer's tokens are all that follow the generation header: the end token is one of them.

    Args:
        pair: of `utils.data.pairs`.
        side: "chosen" or "rejected".
        tokenizer: with the course's template.
    """
    texts = [
        tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True),
        tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=False),
    ]
    prompt, whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return whole, len(os.path.commonprefix([prompt, whole]))


def score_pairs(model, tokenizer, pairs: list[dict], batch_size: int = 4):
    """Compute the mean log-probability of a token of both answers of each pair.

    Args:
        model: a causal language model.
        tokenizer: with the course's template.
        pairs: of `utils.data.pairs`.
        batch_size: talks in one pass, of similar length; a batch's logits take most of the memory.

    Returns:
        pandas data frame with a row for each pair: source, chosen and rejected (nats a token), margin (chosen less
        rejected), and the tokens of both answers.

    Raises:
        ValueError: naming a pair whose log-probability is not finite, such as one with an empty answer.
    """
    import pandas as pd
    import torch
    from torch.nn.utils.rnn import pad_sequence

    sides = ("chosen", "rejected")
    talks = [answer_tokens(pair, side, tokenizer) for pair in pairs for side in sides]
    order = sorted(range(len(talks)), key=lambda place: len(talks[place][0]), reverse=True)  # memory runs out at once
    sums = [0.0] * len(talks)
    model.eval()
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        ids = [torch.tensor(talks[place][0], device=model.device) for place in places]
        batch = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(it) for it in ids], batch_first=True)
        with torch.no_grad():
            logits = model(input_ids=batch, attention_mask=mask).logits
        for row, place in enumerate(places):
            tokens, start = talks[place]
            targets = torch.tensor(tokens[start:], device=logits.device)
            predicted = logits[row, start - 1 : len(tokens) - 1].float().log_softmax(-1)  # each place tells the next
            sums[place] = predicted.gather(1, targets[:, None]).sum().item()
    lengths = [len(tokens) - start for tokens, start in talks]
    scores = pd.DataFrame({"source": [pair.get("source") or "pairs" for pair in pairs]})
    for offset, side in enumerate(sides):
        scores[side] = [total / max(1, count) for total, count in zip(sums[offset::2], lengths[offset::2], strict=True)]
        scores[f"{side}_tokens"] = lengths[offset::2]
    scores["margin"] = scores["chosen"] - scores["rejected"]
    bad = [place for place, it in enumerate(scores.margin) if it - it != 0 or 0 in lengths[2 * place : 2 * place + 2]]
    if bad:
        raise ValueError(
            f"Pair {bad[0]} (source {scores.source[bad[0]]}) has an empty answer, or a log-probability that is not "
            "finite: take it out of the pairs, or load the model in a dtype with more range."
        )
    return scores


def preference_rows(scores: dict, seed: int = 42) -> list[dict]:
    """List accuracy and margin of each model on each source and on all pairs, with 95 % intervals.

    Where all pairs of a source fall on one side, drawing them again shows no spread; there the interval of the accuracy
    is Wilson's.

    Args:
        scores: model -> data frame of `score_pairs`.
        seed: of the bootstrap.
    """
    rows = []
    for model, table in scores.items():
        for source, part in _by_source(table):
            right = (part.margin > 0).to_numpy(float)
            interval = intervals.bootstrap(right, seed=seed)
            if right.min() == right.max():
                interval = intervals.wilson(right.mean(), len(right))
            row = {"model": model, "source": source, "pairs": len(part)}
            row |= _with_interval("accuracy", right.mean(), interval)
            rows.append(row | _with_interval("margin", part.margin.mean(), intervals.bootstrap(part.margin, seed=seed)))
    return rows


def difference_rows(scores: dict, comparisons: list[tuple[str, str]], seed: int = 42) -> list[dict]:
    """List how much one model is ahead of another on the same pairs, with 95 % intervals of the difference.

    Args:
        scores: model -> data frame of `score_pairs`, of the same pairs in the same order.
        comparisons: (model, reference); those with a model that is not in `scores` are left out.
        seed: of the bootstrap, which draws pairs, so that both models are asked about the same ones.
    """
    rows = []
    for model, reference in comparisons:
        if not {model, reference} <= scores.keys():
            continue
        for source, part in _by_source(scores[model]):
            other = scores[reference].loc[part.index]
            row = {"model": model, "reference": reference, "source": source, "pairs": len(part)}
            for name, gained in (
                ("accuracy", (part.margin > 0).astype(float) - (other.margin > 0).astype(float)),
                ("margin", part.margin - other.margin),
            ):
                row |= _with_interval(name, gained.mean(), intervals.bootstrap(gained, seed=seed))
            rows.append(row)
    return rows


def length_bias(scores: dict) -> dict:
    """Tell how far length decides pairs: by a rule without a model, and by summed instead of mean log-probability.

    A sum falls with every token, so it favours short answers; a mean does not, but is not free of length either.

    Args:
        scores: model -> data frame of `score_pairs`.

    Returns:
        Mean `chosen_tokens` and `rejected_tokens`; accuracy of the rule "the longer answer wins", in which a tie counts
        half; and model -> accuracy, `by_mean` and `by_sum`.
    """
    table = next(iter(scores.values()))
    longer = (table.chosen_tokens > table.rejected_tokens) + (table.chosen_tokens == table.rejected_tokens) / 2
    return {
        "chosen_tokens": float(table.chosen_tokens.mean()),
        "rejected_tokens": float(table.rejected_tokens.mean()),
        "longer_wins": float(longer.mean()),
        "by_mean": {model: float((part.margin > 0).mean()) for model, part in scores.items()},
        "by_sum": {model: float((summed_margins(part) > 0).mean()) for model, part in scores.items()},
    }


def summed_margins(table):
    """Return how far the whole chosen answer is likelier than the whole rejected one, in nats, for each pair.

    Args:
        table: of `score_pairs`.
    """
    return (table.chosen * table.chosen_tokens - table.rejected * table.rejected_tokens).to_numpy()


def answer(model, tokenizer, prompts: list[str], max_new_tokens: int, temperature: float = 0.0, seed: int = 42):
    """Answer prompts in one batch: greedily, or at a temperature above 0 by sampling.

    Returns:
        (texts, whether each ended by itself).
    """
    import torch

    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    how = {"do_sample": True, "temperature": temperature, "top_p": TOP_P} if temperature else {"do_sample": False}
    torch.manual_seed(seed)
    model.eval()
    with torch.no_grad():
        output = model.generate(
            **batch.to(model.device),
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **how,
        )
    answers = output[:, batch["input_ids"].shape[1] :]
    ended = (answers == tokenizer.eos_token_id).any(dim=1).tolist()
    return tokenizer.batch_decode(answers, skip_special_tokens=True), ended


def _by_source(table):
    yield "all", table
    if table.source.nunique() > 1:
        yield from table.groupby("source", sort=True)


def _with_interval(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: float(value), f"{name}_low": interval[0], f"{name}_high": interval[1]}
