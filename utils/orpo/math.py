"""ORPO's loss, one small function for each equation of its paper, and how hard the loss pushes on an answer.

The paper is Hong, Lee and Thorne 2024, arXiv 2403.07691; its y_w is the chosen answer here, y_l the rejected one. All
log-probabilities are tensors in nats, and gradients flow through them. Left out: speed and memory, see `fused_orpo`.
"""

IGNORED = -100  # the label of a token that is not scored: prompt or padding


def token_log_probabilities(logits, labels):
    """Return the log-probability of each token, given those before it; 0 where a token is not scored.

    `logits` has the shape (rows, tokens, vocabulary), `labels` (rows, tokens), the result (rows, tokens - 1).
    """
    scored = labels[:, 1:] != IGNORED
    next_tokens = labels[:, 1:].clamp(min=0)  # any token will do where the result is masked
    log_probabilities = logits[:, :-1].float().log_softmax(-1).gather(2, next_tokens[..., None]).squeeze(2)
    return log_probabilities * scored


def mean_log_probability(logits, labels):
    """Return the mean log-probability of the scored tokens of each row: the paper's log P(y|x), equation (3).

    Raises:
        ValueError: if a row has no scored token.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]]).log()
        >>> mean = mean_log_probability(logits, torch.tensor([[0, 0, 1]]))  # of log 0.8 and log 0.5
        >>> round(mean.exp().item() ** 2, 4)
        0.4
    """
    count = (labels[:, 1:] != IGNORED).sum(1)
    if (count == 0).any():
        raise ValueError(
            f"Row {count.tolist().index(0)} has no token to score, and a mean over none is 0 / 0: drop pairs with an "
            "empty answer, or with a prompt that fills the window alone."
        )
    return token_log_probabilities(logits, labels).sum(1) / count


def negative_log_likelihood(logits, labels):
    """Return the loss of language models: the mean of -log P over all scored tokens of all rows.

    TRL's trainer scores the prompt here as well as the chosen answer, unlike in the odds ratio.
    """
    return -token_log_probabilities(logits, labels).sum() / (labels[:, 1:] != IGNORED).sum()


def log_odds(log_probability):
    """Return log odds = log P - log(1 - P), of the paper's equation (4).

    1 - P is -expm1(log P), which keeps its digits where P is so near 1 that P itself rounds to 1.

    Example:
        >>> import torch
        >>> round(log_odds(torch.tensor(0.8).log()).exp().item(), 3)  # 0.8 / 0.2: four to one
        4.0
    """
    import torch

    return log_probability - torch.log(-torch.expm1(log_probability))


def log_odds_ratio(chosen, rejected):
    """Return log(odds(chosen) / odds(rejected)), the logarithm of the paper's equation (5)."""
    return log_odds(chosen) - log_odds(rejected)


def odds_ratio_loss(chosen, rejected):
    """Return L_OR = -log sigmoid(log odds ratio), the paper's equation (7), for each pair.

    Example:
        >>> import torch
        >>> chosen, rejected = torch.tensor([0.8, 0.2]).log()
        >>> round(odds_ratio_loss(chosen, rejected).item(), 4)  # log(1 + 1/16): the odds are 4 and 1/4
        0.0606
    """
    import torch

    return -torch.nn.functional.logsigmoid(log_odds_ratio(chosen, rejected))


def probability_ratio_loss(chosen, rejected):
    """Return -log sigmoid(log(P(chosen) / P(rejected))), the alternative of the paper's section 7.1."""
    import torch

    return -torch.nn.functional.logsigmoid(chosen - rejected)


def orpo_loss(nll, chosen, rejected, beta: float):
    """Return L = L_NLL + beta * mean of L_OR, the paper's equation (6), whose lambda TRL calls `beta`."""
    return nll + beta * odds_ratio_loss(chosen, rejected).mean()


def odds_ratio_push(chosen, rejected):
    """Return how hard L_OR pushes the chosen answer up and the rejected one down: minus its gradient by log P.

    With d log odds / d log P = 1 / (1 - P), the chain rule gives 1 / (1 - P(chosen)) and -1 / (1 - P(rejected)), each
    times sigmoid(-log odds ratio), which tends to 0 as the pair is told apart: the paper's equations (8) to (10).
    """
    import torch

    undecided = torch.sigmoid(-log_odds_ratio(chosen, rejected))
    return undecided / -torch.expm1(chosen), undecided / torch.expm1(rejected)


def probability_ratio_push(chosen, rejected):
    """Return the pushes of `probability_ratio_loss`, equal and opposite: see `odds_ratio_push`."""
    import torch

    undecided = torch.sigmoid(rejected - chosen)
    return undecided, -undecided


def pair_terms(model, batch: dict) -> dict:
    """Return what TRL's ORPO loss is made of for a batch of its collator, whose labels leave the prompt out.

    That is `nll`, a number, over prompts and chosen answers; `chosen` and `rejected`, the mean log P of each answer.
    """
    terms = {}
    for side in ("chosen", "rejected"):
        tokens, mask = batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"]
        logits = model(input_ids=tokens, attention_mask=mask).logits
        terms[side] = mean_log_probability(logits, batch[f"{side}_labels"])
        if side == "chosen":
            terms["nll"] = negative_log_likelihood(logits, tokens.masked_fill(mask == 0, IGNORED))
    return terms
