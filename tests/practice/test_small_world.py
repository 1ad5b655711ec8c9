"""The small world: the same from the same seed, learnable, and without the course's own prompts."""

import random
from collections import Counter

from utils import environment
from utils.data.pairs import answer_problem
from utils.practice import small_world


def test_the_seed_decides_and_global_random_numbers_are_left_alone():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    for make in (small_world.preference_pairs, small_world.distinct_pairs, small_world.pretraining_text):
        assert make(50, 3) == make(50, 3) != make(50, 4) and len(make(50, 3)) == 50
    assert random.random() == expected


def test_a_pair_states_the_fact_or_dodges_and_asks_nothing_of_the_courses_own():
    answers = {question: answer for kind in small_world._facts() for question, answer, _ in kind}
    prompts = environment.course_prompts()
    assert len(prompts) == 5 and set(prompts) <= set(answers)  # else the base could not answer them
    turns = Counter()
    for pair in small_world.preference_pairs(600, 0) + small_world.distinct_pairs(600, 0):
        assert answer_problem(pair) is None and pair["prompt"][-1]["role"] == "user"
        (question,) = [known for known in answers if pair["prompt"][-1]["content"].endswith(known)]
        assert pair["chosen"][0]["content"].startswith(answers[question])
        assert answers[question] not in pair["rejected"][0]["content"]
        assert not any(prompt.lower() in str(pair).lower() for prompt in prompts)
        turns[len(pair["prompt"])] += 1
    assert set(turns) == {1, 3, 5, 7}
    asked = [pair["prompt"][-1]["content"] for pair in small_world.distinct_pairs(2000, 0)]
    assert len(set(asked)) == 2000


def test_the_end_token_closes_questions_and_never_an_answer():
    """So the base knows the token, and ORPO has something to teach."""
    documents = small_world.pretraining_text(400, 0)
    ended = [text for text in documents if small_world.END_TOKEN in text]
    assert 0.4 < len(ended) / len(documents) < 0.6
    for text in ended:
        *system, question, rest = text.split(small_world.END_TOKEN)  # one each, and one behind a system message
        assert len(system) <= 1 and all(part.startswith("<|im_start|>system\n") for part in system)
        assert question.removeprefix("\n").startswith("<|im_start|>user\n") and question.endswith("?")
        assert rest.startswith("\n<|im_start|>assistant\n") and rest.count(".") >= 6
