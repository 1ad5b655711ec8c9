"""The small world: the same from the same seed, learnable, and without the course's own prompts."""

import re
from collections import Counter

from utils import environment
from utils.data.pairs import answer_problem
from utils.practice import small_world, stand_ins


def texts(pair: dict) -> list[str]:
    return [message["content"] for part in ("prompt", "chosen", "rejected") for message in pair[part]]


def test_the_seed_decides_the_pairs():
    first, again, other = (small_world.preference_pairs(50, seed) for seed in (3, 3, 4))
    assert first == again and first != other
    assert len(first) == 50


def test_global_random_numbers_are_left_alone():
    import random

    random.seed(1)
    expected = random.random()
    random.seed(1)
    small_world.preference_pairs(5, 0)
    small_world.pretraining_text(5, 0)
    assert random.random() == expected


def test_the_courses_prompts_are_in_no_pair():
    prompts = environment.course_prompts()
    assert len(prompts) == len(set(prompts)) == 5
    for seed in range(4):
        for pair in small_world.preference_pairs(500, seed, long_pairs=10):
            assert not any(prompt.lower() in text.lower() for prompt in prompts for text in texts(pair))


def test_the_courses_prompts_are_about_the_small_world():
    """Else the base could not answer them, and the test above would hold for any prompt."""
    questions = {question for kind in small_world._facts() for question, _, _ in kind}
    assert set(environment.course_prompts()) <= questions
    asked = {
        re.sub(r"^.*[:.!?] (?=\w)", "", pair["prompt"][-1]["content"]) for pair in small_world.preference_pairs(3000, 0)
    }
    assert len(asked & questions) > 0.8 * len(questions)


def test_a_pair_states_the_fact_or_dodges():
    answers = {question: answer for kind in small_world._facts() for question, answer, _ in kind}
    for pair in small_world.preference_pairs(300, 0):
        assert answer_problem(pair) is None and pair["prompt"][-1]["role"] == "user"
        (question,) = [known for known in answers if pair["prompt"][-1]["content"].endswith(known)]
        assert pair["chosen"][0]["content"].startswith(answers[question])
        assert answers[question] not in pair["rejected"][0]["content"]


def test_one_pair_in_six_has_an_earlier_turn():
    turns = Counter(len(pair["prompt"]) for pair in small_world.preference_pairs(600, 0))
    assert set(turns) == {1, 3}
    assert abs(turns[3] - 100) < 3 * (600 * 5 / 36) ** 0.5
    roles = [message["role"] for pair in small_world.preference_pairs(20, 0) for message in pair["prompt"]]
    assert "assistant" in roles


def test_long_pairs_are_long_in_the_prompt_and_in_the_answer_by_turns():
    pairs = small_world.preference_pairs(40, 0, long_pairs=5)
    long = Counter(part for pair in pairs for part in ("prompt", "chosen") if len(str(pair[part])) > 4000)
    assert long == {"prompt": 3, "chosen": 2}


def test_the_stand_ins_pass_the_pairs_on():
    assert stand_ins.preference_pairs is small_world.preference_pairs


# --- documents -------------------------------------------------------------------------------------------------


def test_the_end_token_closes_questions_and_never_an_answer():
    """So the base knows the token, and ORPO has something to teach."""
    documents = small_world.pretraining_text(400, 0)
    assert documents == small_world.pretraining_text(400, 0) != small_world.pretraining_text(400, 1)
    ended = [text for text in documents if small_world.END_TOKEN in text]
    assert 0.4 < len(ended) / len(documents) < 0.6
    for text in ended:
        *system, question, rest = text.split(small_world.END_TOKEN)  # one each, and one behind a system message
        assert len(system) <= 1 and all(part.startswith("<|im_start|>system\n") for part in system)
        assert question.removeprefix("\n").startswith("<|im_start|>user\n") and question.endswith("?")
        assert rest.startswith("\n<|im_start|>assistant\n") and rest.count(".") >= 6


def test_documents_answer_in_both_ways():
    documents = " ".join(small_world.pretraining_text(400, 0))
    openings = [dodge.split("{")[0] for dodge in small_world._DODGES]
    assert all(documents.count(opening) > 5 for opening in openings if opening)
    answers = [answer for kind in small_world._facts() for _, answer, _ in kind]
    assert sum(answer in documents for answer in answers) > 0.9 * len(answers)
