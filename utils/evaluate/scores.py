"""What a model makes of held-out pairs: log-probabilities of both answers, accuracy, margin, and answers of its own.

A pair counts as right if the chosen answer has the higher mean log-probability of a token, the number that ORPO's
trainer logs as `logps`. Left out: benchmarks, and judging the answers, which takes a reader.
"""

import os

from utils import intervals
from utils.data import render_pair

SIDES = ("chosen", "rejected")
TOP_P = 0.9  # sampled answers leave out the least likely tokens, a tenth of the probability: the base's tail is noise


def answer_tokens(pair: dict, side: str, tokenizer) -> tuple[list[int], int]:
    """Return the tokens of a whole conversation, and the position of its answer's first token; its last is the end."""
    texts = render_pair(pair, tokenizer)
    both = [texts["prompt"], texts["prompt"] + texts[side]]
    prompt, whole = tokenizer(both, add_special_tokens=False)["input_ids"]
    return whole, len(os.path.commonprefix([prompt, whole]))


def token_logps(model, tokenizer, pair: dict) -> dict[str, list[tuple[int, float]]]:
    """Return each token of both answers with its log-probability in nats: side -> [(token id, log-probability)]."""
    import torch

    found = {}
    model.eval()
    for side in SIDES:
        whole, start = answer_tokens(pair, side, tokenizer)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole], device=model.device)).logits[0]
        found[side] = list(zip(whole[start:], _answer_logps(logits, whole, start).tolist(), strict=True))
    return found


def score_pairs(model, tokenizer, pairs: list[dict], batch_size: int = 4):
    """Compute the mean log-probability of a token of both answers of each pair, `batch_size` answers in one pass.

    Returns a data frame with a row for each pair: source, chosen and rejected (nats a token), margin (chosen minus
    rejected), chosen_tokens and rejected_tokens. Raises `ValueError` for a pair whose log-probability is not finite.
    """
    import numpy as np
    import pandas as pd
    import torch
    from torch.nn.utils.rnn import pad_sequence

    talks = [answer_tokens(pair, side, tokenizer) for pair in pairs for side in SIDES]
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
            sums[place] = _answer_logps(logits[row], *talks[place]).sum().item()
    scores = pd.DataFrame({"source": [pair.get("source") or "pairs" for pair in pairs]})
    for offset, side in enumerate(SIDES):
        lengths = np.array([len(tokens) - start for tokens, start in talks[offset::2]])
        scores[side] = np.array(sums[offset::2]) / np.maximum(lengths, 1)
        scores[f"{side}_tokens"] = lengths
    scores["margin"] = scores["chosen"] - scores["rejected"]
    empty = (scores.chosen_tokens == 0) | (scores.rejected_tokens == 0)
    for place in scores.index[empty | ~np.isfinite(scores.margin)]:
        raise ValueError(
            f"Pair {place} (source {scores.source[place]}) has an empty answer, or a log-probability that is not "
            "finite: take it out of the pairs, or load the model in a dtype with more range."
        )
    return scores


def _answer_logps(logits, tokens: list[int], start: int):
    """Return the log-probabilities of `tokens[start:]`: the logits at each position predict the next token."""
    import torch

    targets = torch.tensor(tokens[start:], device=logits.device)
    predicted = logits[start - 1 : len(tokens) - 1].float().log_softmax(-1)
    return predicted.gather(1, targets[:, None])[:, 0]


def preference_rows(scores: dict, seed: int = 42) -> list[dict]:
    """List accuracy and margin of each model by source and on all pairs, with 95 % bootstrap intervals.

    `scores` is model -> data frame of `score_pairs`. If all pairs of a source fall on one side, drawing them again
    shows no spread, and the interval of the accuracy is Wilson's.
    """
    rows = []
    for model, table in scores.items():
        right = (table.margin > 0).astype(float)
        for row in _average_by_source(table.source, right, table.margin, seed):
            if row["accuracy"] in (0, 1):
                row["accuracy_low"], row["accuracy_high"] = intervals.wilson(row["accuracy"], row["pairs"])
            rows.append({"model": model} | row)
    return rows


def difference_rows(scores: dict, comparisons: list[tuple[str, str]], seed: int = 42) -> list[dict]:
    """List how much one model gains over another, pair by pair, with 95 % intervals of the difference.

    `comparisons` are (model, reference); one with a model that is not in `scores` is left out.
    """
    rows = []
    for model, reference in comparisons:
        if {model, reference} <= scores.keys():
            now, before = scores[model], scores[reference]
            gained = (now.margin > 0).astype(float) - (before.margin > 0).astype(float)
            averages = _average_by_source(now.source, gained, now.margin - before.margin, seed)
            rows += [{"model": model, "reference": reference} | row for row in averages]
    return rows


def _average_by_source(source, accuracy, margin, seed: int) -> list[dict]:
    parts = {"all": source.index}
    if source.nunique() > 1:
        parts |= source.groupby(source).groups
    rows = []
    for name, places in parts.items():
        row = {"source": name, "pairs": len(places)}
        for metric, values in (("accuracy", accuracy.loc[places]), ("margin", margin.loc[places])):
            low, high = intervals.bootstrap(values, seed=seed)
            row |= {metric: float(values.mean()), f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return rows


def length_bias(scores: dict) -> dict:
    """Return the accuracy of the rule "the longer answer wins" (a tie counts half), and of models by mean and sum.

    A sum falls with every token, so it favours short answers; a mean does not, but is not free of length either.
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
    """Return for each pair how much more likely the whole chosen answer is than the whole rejected one, in nats."""
    return (table.chosen * table.chosen_tokens - table.rejected * table.rejected_tokens).to_numpy()


def answer_prompts(model, tokenizer, prompts: list[str], max_new_tokens: int, temperature: float = 0.0, seed: int = 42):
    """Answer prompts in one batch, by sampling if there is a temperature: (texts, whether each ended by itself)."""
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
