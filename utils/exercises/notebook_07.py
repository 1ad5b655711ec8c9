"""The exercises of notebook 07: a blind comparison, the cost of a system prompt, a smaller file, a stop at a word."""

import inspect
import math

from utils.exercises.checks import by_letter, choice, close, exercise, function, number

Q8_0_BITS = (32 * 8 + 16) / 32  # llama.cpp stores 32 weights in 8 bits each, with one scale in 16


@exercise('the answer you prefer for each question, as in {"Q1": "A", "Q2": "same", ...}')
def check_blind(answer: dict | None, shown: dict[str, list[str]]) -> str:
    """Count which model was preferred; `shown` is question -> titles of the models behind A and B."""
    for question, given in by_letter(answer, shown, "a choice").items():
        choice(given, [*"AB"[: len(shown[question])], "same"], f"The choice for question {question}")
    won = {title: 0 for titles in shown.values() for title in titles}
    for question, given in answer.items():
        if given != "same":
            won[shown[question]["AB".index(given)]] += 1
    counts = ", ".join(f"{title} {count}" for title, count in sorted(won.items()))
    return (
        f"No answer is right or wrong. Preferred: {counts}, of {len(shown)} questions; it takes some 50 questions to "
        "call a difference real."
    )


@exercise("a number of tokens")
def check_system_cost(answer: int | None, tokenizer, messages: list[dict], system: str) -> str:
    """Check how many tokens a system prompt adds to a conversation."""

    def tokens(talk):
        text = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    number(answer, "The number of tokens", 0, True)
    alone, without = len(tokenizer(system, add_special_tokens=False)["input_ids"]), tokens(messages)
    whole = tokens([{"role": "system", "content": system}, *messages])
    right = whole - without
    text_alone = (
        f"the text alone has {alone}. The template puts a header before it and an end token behind it: count both "
        "prompts as the model reads them, with publish.fit_prompt."
    )
    slips = {whole: "the question is in it too: subtract its tokens.", alone: text_alone, alone + 1: text_alone}
    why = "Count with the system message and without it, and subtract."
    close(answer, right, "The number of tokens", 0, why, slips)
    return f"Right: {right} tokens, {alone} of them the text, in every turn again: a system prompt is never left out."


@exercise("a number of megabytes")
def check_file_size(answer: float | None, weights: int) -> str:
    """Check how large a model's weights are as Q8_0, in megabytes (10^6 bytes), to 2 %."""
    number(answer, "The size", 0)
    right = weights * Q8_0_BITS / 8 / 1e6
    in_mib = math.isclose(answer, right * 1e6 / 2**20, rel_tol=0.005)
    assert not in_mib, f"{answer:g} MB is in MiB: divide by 10^6, not by 2^20."
    slips = {
        weights / 1e6: "it leaves out the scales: 16 bits more for every 32 weights.",
        weights * 2 / 1e6: "that is 16 bits a weight, as the file above has them.",
        weights * (8 + 16) / 8 / 1e6: "it gives every weight a scale of its own, but 32 weights share one.",
        weights * Q8_0_BITS / 1e6: "that counts bits, and eight of them are a byte.",
        right / 1e3: "that is in GB, and megabytes are asked for.",
    }
    why = f"The model has {weights:,} weights; how many bits take 32 of them, with their scale?"
    close(answer, right, "The size", why=why, slips=slips)
    return f"Right: {Q8_0_BITS:g} bits a weight, {right:,.1f} MB."


@exercise("a function of a stream and of a word")
def check_until(answer, stream, text: str) -> str:
    """Check a function that takes a stream of growing texts until a word has come, and then closes it.

    `stream` is a function that begins the real answer again, and `text` is the whole of that answer.
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
            f"{word!r} was in text {steps} and your function took {len(taken)}: the model would write on for "
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
