"""Checks of notebook 09: the tokens of a pass, a card's roof, and the mask of a packed row."""

import math
import reprlib

from utils.exercises.checks import close, exercise, function, number


@exercise('a number of tokens of each kind, as in {"distinct": 900, "repeated": 80, "padding": 20}')
def check_pass(answer: dict | None, lengths: list[tuple]) -> str:
    """Check the tokens of each kind in a pass, from its pairs' (prompt, chosen, rejected) tokens."""
    kinds = ("distinct", "repeated", "padding")
    is_table = isinstance(answer, dict) and set(answer) == set(kinds)
    assert is_table, f"The answer is a dictionary of {', '.join(kinds)} and tokens, not {answer!r}."
    for kind, count in answer.items():
        number(count, f"The number of {kind} tokens", 0, True)
    rows = [prompt + side for prompt, *sides in lengths for side in sides]
    longest, copies = max(rows), sum(prompt for prompt, *_ in lengths)
    padding, repeated = len(rows) * longest - sum(rows), copies - len(lengths)
    close(
        answer["padding"],
        padding,
        "The number of padding tokens",
        0,
        f"The rows have {', '.join(map(str, rows))} tokens, and each is filled up to the longest, {longest}.",
    )
    assert answer["repeated"] != copies, (
        f"{copies} are both prompts whole. The last token of a prompt stands twice in the packed row as well, since it "
        "predicts two different tokens: one token less for each pair."
    )
    why = f"The prompts have {' and '.join(str(prompt) for prompt, *_ in lengths)} tokens, computed a second time each."
    close(answer["repeated"], repeated, "The number of repeated tokens", 0, why)
    why = f"All {len(rows)} rows of {longest} tokens, less padding, less what is repeated."
    close(answer["distinct"], sum(rows) - repeated, "The number of distinct tokens", 0, why)
    part = (padding + repeated) / (len(rows) * longest)
    return f"Right: {100 * part:.0f} % of what the stock trainer computes in this pass is padding or repeated."


@exercise("a share between 0 and 1")
def check_roof(answer: float | None, intensity: float, matrix_rate: float, bandwidth: float) -> str:
    """Check what share of a card's matrix rate an operation can reach at most, to 5 %."""
    number(answer, "The share", 0)
    reached = intensity * bandwidth
    right = min(1.0, reached / matrix_rate)
    assert not math.isclose(answer, 100 * right, rel_tol=0.05), f"{answer:g} is in per cent: a share of 1 is all of it."
    assert not math.isclose(answer, reached, rel_tol=0.05), (
        f"{answer:g} are FLOP/s that memory feeds: divide them by the matrix rate of the card."
    )
    assert answer <= 1, (
        f"{answer:g} is above 1, and no operation is faster than the matrix rate. Multiply its FLOPs for each byte by "
        "the bytes that come in a second."
    )
    why = (
        f"{intensity:.3g} FLOPs a byte times {bandwidth:.3g} bytes a second, over {matrix_rate:.3g} FLOPs a second; "
        "the card's rates, not those of your machine."
    )
    close(answer, right, "The share", 0.05, why)
    bend = matrix_rate / bandwidth
    return f"Right: {100 * right:.1f} %. The roof bends at {bend:.0f} FLOPs a byte, and this does {intensity:.3g}."


@exercise("a function of the three lengths prefix, chosen and rejected")
def check_mask(answer, seen: list[list[bool]], lengths: tuple[int, int, int]) -> str:
    """Check a function that tells which token of a packed row sees which."""
    mask = function(answer, "Your function")
    for prefix, chosen, rejected in ((2, 1, 1), (3, 2, 4), lengths):
        size, name = prefix + chosen + rejected, f"mask({prefix}, {chosen}, {rejected})"
        parts = ["prefix"] * prefix + ["chosen"] * chosen + ["rejected"] * rejected
        rows = mask(prefix, chosen, rejected)
        rows = rows.tolist() if hasattr(rows, "tolist") else rows
        listed = isinstance(rows, list | tuple)
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in rows] if listed else rows
        is_square = listed and [len(row) if isinstance(row, list | tuple) else 0 for row in rows] == [size] * size
        assert is_square, (
            f"{name} has to be {size} rows of {size} values, a row for each token, which looks, and not "
            f"{reprlib.repr(rows)}."
        )
        for place in range(size):
            for other in range(size):
                is_strange = parts[place] == "rejected" and parts[other] == "chosen"
                allowed, given = other <= place and not is_strange, bool(rows[place][other])
                why = (
                    "a token never sees what comes later"
                    if other > place
                    else "a token sees itself and what stands before it in its own text"
                )
                why = "the rejected answer must not read the chosen one" if is_strange and other < place else why
                assert given == allowed, (
                    f"{name}: token {place} ({parts[place]}) {'sees' if given else 'does not see'} token {other} "
                    f"({parts[other]}), and it {'should' if allowed else 'should not'}: {why}."
                )
    assert [list(map(bool, row)) for row in rows] == seen, f"{name} is not what the collator's branches allow."
    return f"Right, and the same as the collator's branches: {sum(map(sum, seen))} of {size**2} cells are seen."
