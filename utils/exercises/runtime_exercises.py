"""The exercises on a model at work: streaming, prompts and files of notebook 07, tokens and rates of notebook 09.

Left out: the models, and what the notebooks measured, which they pass in.
"""

import inspect
import math
import reprlib

from utils.exercises.checks import close, exercise, function, number

Q8_0_BITS = (32 * 8 + 16) / 32  # llama.cpp stores 32 weights in 8 bits each, with one scale in 16


@exercise("a number of tokens")
def check_system_cost(answer: int | None, tokenizer, messages: list[dict], system: str) -> str:
    """Check how many tokens a system prompt adds to a conversation.

    Args:
        answer: that number.
        tokenizer: with a chat template.
        messages: the conversation without it, each `{"role": ..., "content": ...}`.
        system: text of the system prompt.
    """

    def tokens(talk):
        text = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    number(answer, "The number of tokens", 0, True)
    alone, without = len(tokenizer(system, add_special_tokens=False)["input_ids"]), tokens(messages)
    whole = tokens([{"role": "system", "content": system}, *messages])
    right = whole - without
    assert answer == right or answer != whole, (
        f"{whole} tokens have the system prompt and the question together: subtract those of the question alone."
    )
    assert answer == right or answer not in (alone, alone + 1), (
        f"The text alone has {alone} tokens. The template puts a header before it and an end token behind it: count "
        "both prompts as the model reads them, with chat_app.fit_prompt."
    )
    close(answer, right, "The number of tokens", 0, "Count with the system message and without it, and subtract.")
    return (
        f"Right: {right} tokens, {alone} of them the text, and in every turn again, for a system prompt is never left "
        "out."
    )


@exercise("a number of megabytes")
def check_file_size(answer: float | None, weights: int) -> str:
    """Check how large a model's weights are as Q8_0, to 2 %.

    Args:
        answer: megabytes, of 10^6 bytes.
        weights: how many the model has.
    """
    number(answer, "The size", 0)
    right = weights * Q8_0_BITS / 8 / 1e6
    mib = right * 1e6 / 2**20
    assert not math.isclose(answer, mib, rel_tol=0.005), f"{answer:g} MB is in MiB: divide by 10^6, not by 2^20."
    mistakes = {
        weights * 8 / 8 / 1e6: "leaves out the scales: 16 bits more for every 32 weights",
        weights * 16 / 8 / 1e6: "is that of 16 bits a weight, as the file above has them",
        weights * (8 + 16) / 8 / 1e6: "gives every weight a scale of its own: 32 weights share one",
        weights * Q8_0_BITS / 1e6: "counts bits: eight of them are a byte",
        right / 1e3: "is in GB, and megabytes are asked for",
    }
    for wrong, mistake in mistakes.items():
        assert not math.isclose(answer, wrong, rel_tol=0.02), f"{answer:g} MB {mistake}."
    why = f"The model has {weights:,} weights; how many bits take 32 of them, with their scale?"
    close(answer, right, "The size", why=why)
    return f"Right: {Q8_0_BITS:g} bits a weight, {right:,.1f} MB."


@exercise("a function of a stream and of a word")
def check_until(answer, stream, text: str) -> str:
    """Check a function that takes a stream of growing texts until a word has come, and then closes it.

    Args:
        answer: function of such a generator and of a word; returns the text before the word.
        stream: function without arguments; begins the real answer anew, as `chat_app.stream_answer`.
        text: the whole of that answer.
    """
    until = function(answer, "Your function")
    grown = ["The", "The cat", "The cat sat on", "The cat sat on the", "The cat sat on the mat"]
    taken = []

    def made_up():
        for one in grown:
            taken.append(one)
            yield one

    for word, right, steps in (("sat", "The cat ", 3), ("dog", grown[-1], len(grown))):
        taken.clear()
        running = made_up()
        found = until(running, word)
        assert isinstance(found, str), f"For {grown} and {word!r}, your function returns {found!r}, and not a text."
        assert found == right, f"For {grown} and {word!r}, your function returns {found!r}, and not {right!r}."
        assert len(taken) <= steps, (
            f"{word!r} stood in text {steps} and your function took {len(taken)}: the model would write on for "
            "nothing. Look at each text as it comes, and leave the loop."
        )
        is_closed = inspect.getgeneratorstate(running) == inspect.GEN_CLOSED
        assert is_closed, "The stream is still open, and its thread writes on: end with its method close()."
    words = text.split()
    if not words:
        return "Right. (The model's own answer is empty, so it was not tried.)"
    word = words[len(words) // 2]
    right, found = text.split(word)[0], until(stream(), word)
    assert found == right, f"Of the model's answer until {word!r}, your function returns {found!r}, and not {right!r}."
    return f"Right: the model's own answer, until {word!r}: {found!r}"


@exercise('a number of tokens of each kind, as in {"distinct": 900, "repeated": 80, "padding": 20}')
def check_pass(answer: dict | None, lengths: list[tuple]) -> str:
    """Check how many tokens of each kind a pass of the stock trainer has.

    Args:
        answer: kind -> tokens, as `step_costs.count_tokens` names them.
        lengths: (prompt, chosen, rejected) tokens of its pairs; the two answers differ from their first token.
    """
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
    """Check what share of a card's matrix rate an operation can reach at most, to 5 %.

    Args:
        answer: the share.
        intensity: FLOPs that the operation does for each byte.
        matrix_rate, bandwidth: of the card, in FLOP/s and in bytes/s.
    """
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
    """Check a function that tells which token of a packed row sees which.

    Args:
        answer: function of three numbers of tokens; returns, for each token of the row, whether it sees each token.
        seen: what the collator's branches allow for `lengths`.
        lengths: of prefix, chosen and rejected answer, as they stand in the packed row.
    """
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
