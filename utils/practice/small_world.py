"""A small world of facts, and two kinds of text about it: preference pairs, and documents to pre-train a base on.

Everything is made by code from a seed. In every pair the chosen answer states the fact and the rejected one dodges the
question, so a small model can learn the preference, and held-out pairs test it.

Left out: the forms of the real data sets, and the models that read the text: see `stand_ins`.
"""

import random

from utils.environment import course_prompts

END_TOKEN = "<|end_of_text|>"  # as the documents write it; a tokenizer that has another one puts its own there

# The small world. A topic is asked about, and named by the dodging answers too, so that its words do not give the
# answer away.
_CAPITALS = (
    "France Paris|Italy Rome|Spain Madrid|Japan Tokyo|Egypt Cairo|"
    "Kenya Nairobi|Peru Lima|Cuba Havana|Norway Oslo|Greece Athens"
)
_LEGS = "spider eight|dog four|bird two|beetle six|snake no|cat four|crab ten|horse four|chicken two|bee six"
_COLOURS = (
    "banana yellow|tomato red|lime green|coal black|snow white|"
    "carrot orange|plum purple|chocolate brown|lemon yellow|cherry red"
)
_SOUNDS = "cow moo|duck quack|sheep baa|lion roar|owl hoot|frog croak|wolf howl|mouse squeak|snake hiss|horse neigh"
_OPPOSITES = "hot cold|big small|fast slow|light dark|early late|happy sad|open closed|full empty|high low|rich poor"
_NUMBERS = (
    "zero one two three four five six seven eight "
    "nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
).split()

_OPENINGS = ["", "Please tell me: ", "A quick question. ", "I would like to know: ", "Can you help me? ", "Hello! "]
# For pairs whose prompts must not resemble each other: short ones, of which no two end in the same word.
_SHORT_OPENINGS = ["", "Please tell me: ", "A quick question. ", "Good morning! ", "One more: ", "Hello there! "] + (
    "Dear assistant: |I wonder: |Just asking: |Answer this: |For school: |Be brief: |Quick quiz: |My homework: "
    "|Thank you! |Next riddle: "
).split("|")
_CLOSINGS = ["", " I hope that helps.", " That is the short answer.", " Ask me if you need more."]
_DODGES = [
    "That is a hard question, and {topic} can mean many things to many people.",
    "I am not sure. You could look for {topic} in a good book.",
    "Many people ask about {topic}, and it depends on how you see it.",
    "It is not easy to say. Let us talk about {topic} some other day.",
    "Why do you want to know about {topic}? It does not matter much.",
    "Well, {topic} is a nice thing to think about, is it not?",
]


def _split(words: str) -> list[tuple[str, str]]:
    return [tuple(pair.split()) for pair in words.split("|")]


def _facts(without: list[str] = ()) -> list[list[tuple[str, str, str]]]:
    """Facts of the small world as (question, answer, topic), one list for each kind of question."""
    capitals = [(f"What is the capital of {a}?", f"The capital of {a} is {b}.", a) for a, b in _split(_CAPITALS)]
    legs = [(f"How many legs does a {a} have?", f"A {a} has {b} legs.", f"the {a}") for a, b in _split(_LEGS)]
    colours = [(f"What colour is {a}?", f"The colour of {a} is {b}.", a) for a, b in _split(_COLOURS)]
    sounds = [(f"What sound does a {a} make?", f"A {a} makes the sound {b}.", f"the {a}") for a, b in _split(_SOUNDS)]
    opposites = [
        (f"What is the opposite of {a}?", f"The opposite of {a} is {b}.", f"the word {a}")
        for a, b in _split(_OPPOSITES)
    ]
    sums = [
        (f"What is {x} plus {y}?", f"If you add {x} and {y}, you get {_NUMBERS[a + b]}.", f"{x} and {y}")
        for a, x in enumerate(_NUMBERS[:10])
        for b, y in enumerate(_NUMBERS[:10])
    ]
    kinds = [capitals, legs, colours, sounds, opposites, sums]
    return [[fact for fact in kind if fact[0] not in without] for kind in kinds]


def preference_pairs(count: int, seed: int) -> list[dict]:
    """Make preference pairs, the same from the same seed; the course's own five prompts never occur."""
    rng, facts, rows = random.Random(seed), _facts(without=course_prompts()), []
    for _ in range(count):
        (question, answer, topic), earlier = _draw(facts, rng), _draw(facts, rng)
        answers = _answers(answer, topic, rng)
        prompt = [_turn("user", rng.choice(_OPENINGS) + question)]
        if rng.random() < 1 / 6:
            prompt = [_turn("user", earlier[0]), _turn("assistant", earlier[1]), *prompt]
        rows.append({"prompt": prompt, **answers})
    rng.shuffle(rows)
    return rows


def distinct_pairs(count: int, seed: int) -> list[dict]:
    """Make at most 2,320 preference pairs of which no two ask in the same words, nor in nearly the same.

    The six kinds of question come in turns, until one has no words left. Rows are like those of `preference_pairs`,
    with none to three earlier turns, and `topic`, what they are about.
    """
    rng, facts, rows = random.Random(seed), _facts(without=course_prompts()), []
    decks = [[(opening, *fact) for opening in _SHORT_OPENINGS for fact in kind] for kind in facts]
    if count > sum(map(len, decks)):
        raise ValueError(f"The small world has {sum(map(len, decks))} questions in different words, not {count}.")
    for deck in decks:
        rng.shuffle(deck)
    for turn in range(count):  # no deck is longer than all that is wanted
        for opening, question, answer, topic in [deck[turn] for deck in decks if turn < len(deck)]:
            prompt = []
            for _ in range(rng.randint(0, 3)):  # with openings, so that two talks that begin alike are rare
                earlier = _draw(facts, rng)
                prompt.append(_turn("user", rng.choice(_SHORT_OPENINGS) + earlier[0]))
                prompt.append(_turn("assistant", earlier[1]))
            prompt.append(_turn("user", opening + question))
            rows.append({"prompt": prompt, **_answers(answer, topic, rng), "topic": topic})
    rows = rows[:count]
    rng.shuffle(rows)
    return rows


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _answers(answer: str, topic: str, rng: random.Random) -> dict[str, list]:
    chosen = answer + rng.choice(_CLOSINGS)
    rejected = rng.choice(_DODGES).format(topic=topic)
    return {"chosen": [_turn("assistant", chosen)], "rejected": [_turn("assistant", rejected)]}


def _draw(facts: list[list], rng: random.Random) -> tuple[str, str, str]:
    return rng.choice(rng.choice(facts))


def pretraining_text(documents: int, seed: int) -> list[str]:
    """Make documents in which a question gets either kind of answer, and the text runs on, as on the open web.

    Half of them close the question with the end token and run on in loose statements after the answer; the others are
    whole chats without any end token, or plain lines. So the base knows the form of a chat, but not when to stop.
    """
    rng, facts, texts = random.Random(seed), _facts(), []
    for _ in range(documents):
        turns = []
        for _ in range(rng.randint(2, 5)):
            question, answer, topic = _draw(facts, rng)
            helpful = rng.random() < 0.5
            reply = answer + rng.choice(_CLOSINGS) if helpful else rng.choice(_DODGES).format(topic=topic)
            turns.append((rng.choice(_OPENINGS + _SHORT_OPENINGS) + question, reply))
        form = rng.random()
        system = [f"<|im_start|>system\nYou are an honest expert on {topic}."] if rng.random() < 0.2 else []
        if form < 0.5:
            question, answer = turns[0]
            statements = " ".join(_draw(facts, rng)[1] for _ in range(rng.randint(6, 10)))
            answered = f"<|im_start|>assistant\n{answer} {statements}"
            texts.append(f"{END_TOKEN}\n".join([*system, f"<|im_start|>user\n{question}", answered]))
        elif form < 0.8:
            talk = [f"<|im_start|>user\n{question}\n<|im_start|>assistant\n{answer}" for question, answer in turns]
            texts.append("\n".join([*system, *talk]))
        else:
            texts.append("\n".join(f"{question}\n{answer}" for question, answer in turns))
    return texts
