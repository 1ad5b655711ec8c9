"""The stand-ins of sources and benchmarks: real schemas, ordinary rows without a fault, and every fault where it is."""

import re
import unicodedata
from collections import Counter, defaultdict
from functools import cache
from itertools import chain

import pytest
from datasets import Dataset, get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from utils import environment
from utils.data import chat_format
from utils.practice import benchmark_rows as benchmark_stand_ins
from utils.practice import rows as source_stand_ins
from utils.practice import small_world, stand_ins
from utils.practice.benchmark_rows import ARC, BENCHMARKS, GSM8K, HELLASWAG, IFEVAL, MMLU, TRUTHFUL_QA
from utils.practice.hub import PracticeHub
from utils.practice.rows import (
    CAPYBARA,
    CAPYBARA_PREFERENCES,
    INTEL_ORCA,
    MATH,
    PRM,
    SOURCES,
    STACK_EXCHANGE,
    TOXIC,
    TRUTHY_DPO,
    ULTRAFEEDBACK,
    planted_rows,
)

SEVEN = [CAPYBARA, INTEL_ORCA, ULTRAFEEDBACK, MATH, TOXIC, PRM, TRUTHY_DPO]
MESSAGES = [{"content": "text", "role": "text"}]


@pytest.fixture
def published(hub, monkeypatch) -> PracticeHub:
    monkeypatch.setattr("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", False)  # else it asks a server in the internet
    stand_ins.publish(hub, names=[*SOURCES, *BENCHMARKS])
    return hub


def plain(feature):
    """A feature as nested Python: the name of its type, or its shape."""
    if isinstance(feature, dict):
        return {name: plain(value) for name, value in feature.items()}
    if isinstance(feature, list):
        return [plain(feature[0])]
    inner = getattr(feature, "feature", None)
    return [plain(inner)] if inner is not None else feature.dtype.replace("string", "text").replace("large_", "")


@cache
def rows_of(repo_id: str) -> list[dict]:
    """The rows of a source as its file holds them."""
    (path,) = stand_ins.mix_source(repo_id).rglob("*.parquet")
    return list(Dataset.from_parquet(str(path)))


def ordinary(repo_id: str) -> list[dict]:
    planted = set(planted_rows(repo_id).values())
    return [row for number, row in enumerate(rows_of(repo_id)) if number not in planted]


def planted(repo_id: str, what: str) -> dict:
    return rows_of(repo_id)[planted_rows(repo_id)[what]]


# Which column holds the prompt, the chosen and the rejected answer; message lists hold the prompt too.
COLUMNS = {
    CAPYBARA: ("chosen", "chosen", "rejected"),
    INTEL_ORCA: ("input", "chosen", "rejected"),
    ULTRAFEEDBACK: ("chosen", "chosen", "rejected"),
    MATH: ("instruction", "chosen_response", "rejected_response"),
    TOXIC: ("prompt", "chosen", "rejected"),
    PRM: ("prompt", "chosen", "rejected"),
    TRUTHY_DPO: ("prompt", "chosen", "rejected"),
    CAPYBARA_PREFERENCES: ("chosen", "chosen", "rejected"),
    STACK_EXCHANGE: ("question", "response_j", "response_k"),
}
RATINGS = {  # of the chosen and of the rejected answer
    CAPYBARA: ("rating_chosen", "rating_rejected"),
    ULTRAFEEDBACK: ("chosen-rating", "rejected-rating"),
    MATH: ("chosen_rating", "rejected_rating"),
    CAPYBARA_PREFERENCES: ("chosen_rating", "rejected_rating"),
}


def pair_of(repo_id: str, row: dict) -> dict:
    """A row as system message, earlier messages, prompt, and the two answers."""
    prompt, chosen, rejected = (row[column] for column in COLUMNS[repo_id])
    if isinstance(prompt, str):
        return {"system": row.get("system", ""), "earlier": [], "prompt": prompt, "answers": [chosen, rejected]}
    system = chosen[0]["content"] if chosen[0]["role"] == "system" else ""
    earlier = [message for message in chosen[:-2] if message["role"] != "system"]
    answers = [chosen[-1]["content"], rejected[-1]["content"]]
    return {"system": system, "earlier": earlier, "prompt": chosen[-2]["content"], "answers": answers}


def as_pair(repo_id: str, row: dict) -> dict:
    """A row in the course's own form."""
    found = pair_of(repo_id, row)
    before = [{"role": "system", "content": found["system"]}] if found["system"] else []
    prompt = [*before, *found["earlier"], {"role": "user", "content": found["prompt"]}]
    chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in found["answers"])
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def rating_of(repo_id: str, row: dict) -> float | None:
    """The chosen answer's rating as a share of the best one; `None` if it was not rated."""
    if repo_id == INTEL_ORCA:
        return row["chosen_score"] and row["chosen_score"] / 10
    column = RATINGS.get(repo_id)
    return row[column[0]] / (10 if repo_id == MATH else 5) if column else None


# --- schemas ---------------------------------------------------------------------------------------------------

RATED = {"source": "text", "chosen": MESSAGES, "rejected": MESSAGES}
TEXTS = dict.fromkeys(("prompt", "chosen", "rejected"), "text")
SCHEMAS = {
    CAPYBARA: RATED
    | {
        "conversation": [{"input": "text", "output": "text"}],
        "original_response": "text",
        "generation_prompt": ["text"],
        "raw_generation_responses": ["text"],
        "new_generations": ["text"],
        "prompt": "text",
        "rating_chosen": "int64",
        "rating_rejected": "int64",
        "chosen_model": "text",
        "rejected_model": "text",
    },
    INTEL_ORCA: dict.fromkeys(("system", "input", "chosen", "rejected", "labelling_model", "status"), "text")
    | dict.fromkeys(("raw_labelling_response", "rationale", "original_chosen", "original_rejected"), "text")
    | {
        "generations": ["text"],
        "order": ["text"],
        "labelling_prompt": MESSAGES,
        "rating": ["float64"],
        "chosen_score": "float64",
        "in_gsm8k_train": "bool",
    },
    ULTRAFEEDBACK: RATED
    | {"prompt": "text", "chosen-rating": "float64", "chosen-model": "text"}
    | {"rejected-rating": "float64", "rejected-model": "text"},
    MATH: dict.fromkeys(("metadata", "instruction", "chosen_response", "rejected_response", "kind"), "text")
    | {"chosen_rating": "float64", "rejected_rating": "float64"},
    TOXIC: TEXTS,
    PRM: TEXTS | {"is_chosen_correct": "bool"},
    TRUTHY_DPO: TEXTS | {"id": "text", "source": "text", "system": "text"},
    CAPYBARA_PREFERENCES: RATED
    | {"chosen_rating": "float64", "rejected_rating": "float64", "chosen_model": "text", "rejected_model": "text"},
    STACK_EXCHANGE: dict.fromkeys(("question", "date", "response_j", "response_k"), "text")
    | {"qid": "int64", "metadata": ["text"]},
}
BENCHMARK_SCHEMAS = {
    GSM8K: {"question": "text", "answer": "text"},
    TRUTHFUL_QA: dict.fromkeys(("type", "category", "question", "best_answer", "source"), "text")
    | {"correct_answers": ["text"], "incorrect_answers": ["text"]},
    ARC: {"id": "text", "question": "text", "choices": {"text": ["text"], "label": ["text"]}, "answerKey": "text"},
    HELLASWAG: dict.fromkeys(("activity_label", "ctx_a", "ctx_b", "ctx", "source_id", "split", "split_type"), "text")
    | {"ind": "int32", "endings": ["text"], "label": "text"},
    MMLU: {"question": "text", "subject": "text", "choices": ["text"], "answer": "int64"},
}
CONFIGS = {
    GSM8K: ("main", {"train", "test"}),
    TRUTHFUL_QA: ("generation", {"validation"}),
    ARC: ("ARC-Challenge", {"test"}),
    HELLASWAG: ("default", {"validation"}),
    MMLU: ("all", {"test"}),
    IFEVAL: ("default", {"train"}),
}
LICENCES = {
    CAPYBARA: "apache-2.0",
    INTEL_ORCA: "apache-2.0",
    ULTRAFEEDBACK: "mit",
    MATH: "apache-2.0",
    TOXIC: "cc-by-4.0",
    PRM: "apache-2.0",
    TRUTHY_DPO: "cc-by-4.0",
    CAPYBARA_PREFERENCES: "apache-2.0",
    STACK_EXCHANGE: "cc-by-sa-4.0",
}


@pytest.mark.parametrize("repo_id", SOURCES)
def test_the_real_client_loads_a_source_from_the_hub(published, repo_id):
    rows = load_dataset(repo_id, split="train", data_dir="data/rl" if repo_id == STACK_EXCHANGE else None)
    assert plain(dict(rows.features)) == SCHEMAS[repo_id]
    assert list(rows) == rows_of(repo_id)
    assert get_dataset_config_names(repo_id) == ["default"]


def test_stack_exchange_can_be_streamed(published):
    stream = load_dataset(STACK_EXCHANGE, data_dir="data/rl", split="train", streaming=True)
    assert list(stream.take(3)) == rows_of(STACK_EXCHANGE)[:3]


@pytest.mark.parametrize("repo_id", BENCHMARKS)
def test_the_real_client_loads_a_benchmark_from_the_hub(published, repo_id):
    config, splits = CONFIGS[repo_id]
    others = ["multiple_choice"] * (repo_id == TRUTHFUL_QA)
    assert get_dataset_config_names(repo_id) == [config, *others]
    loaded = load_dataset(repo_id, config)
    assert set(loaded) == splits
    for split in splits:
        assert 20 <= len(loaded[split]) <= 40
        if repo_id == IFEVAL:
            continue
        assert plain(dict(loaded[split].features)) == BENCHMARK_SCHEMAS[repo_id]
        assert list(loaded[split]) == benchmark_stand_ins.items(repo_id, split)


def test_truthful_qa_has_the_configuration_that_lm_eval_asks(published):
    rows = load_dataset(TRUTHFUL_QA, "multiple_choice", split="validation").to_list()
    assert rows == benchmark_stand_ins.multiple_choice()
    for row in rows:
        one, every = row["mc1_targets"], row["mc2_targets"]
        assert one["labels"][0] == 1 and sum(one["labels"]) == 1 < sum(every["labels"]) < len(every["labels"])
        assert all(len(it["choices"]) == len(it["labels"]) for it in (one, every))


def test_ifeval_is_one_file_of_json_lines(published):
    assert set(published.files(IFEVAL, "dataset")) == {".gitattributes", "README.md", "ifeval_input_data.jsonl"}
    rows = load_dataset(IFEVAL, split="train")
    kinds = plain({name: feature for name, feature in rows.features.items() if name != "kwargs"})
    assert kinds == {"key": "int64", "prompt": "text", "instruction_id_list": ["text"]}
    for row in rows:
        assert len(row["kwargs"]) == len(row["instruction_id_list"]) >= 1
        assert all(isinstance(given, dict) for given in row["kwargs"])
    assert len(set(rows["key"])) == len(rows)


@pytest.mark.parametrize("repo_id", [*SOURCES, *BENCHMARKS])
def test_the_card_is_one_that_the_hub_reads(published, repo_id):
    card = DatasetCard((stand_ins.STAND_INS[repo_id][1]() / "README.md").read_text())
    assert isinstance(card.data, DatasetCardData) and card.data.tags == ["stand-in"]
    assert "stand-in for" in card.text and "only its name and form are real" in card.text
    told = HfApi().dataset_info(repo_id).card_data.to_dict()
    assert told == card.data.to_dict() and told["license"]
    if repo_id in SOURCES:
        assert told["license"] == LICENCES[repo_id]


# The rules of the mix, and 'all' for sources without one.
RULES = {
    CAPYBARA: lambda row: row["rating_chosen"] >= 5,
    INTEL_ORCA: lambda row: (row["chosen_score"] or 0) >= 9 and not row["in_gsm8k_train"],
    ULTRAFEEDBACK: lambda row: row["chosen-rating"] >= 5,
    MATH: lambda row: row["chosen_rating"] >= 9,
    CAPYBARA_PREFERENCES: lambda row: row["chosen_rating"] >= 5,
}


@pytest.mark.parametrize("repo_id", SOURCES)
def test_the_card_tells_how_many_rows_the_rule_keeps(published, repo_id):
    kept = sum(map(RULES.get(repo_id, lambda row: True), rows_of(repo_id)))
    assert HfApi().dataset_info(repo_id).card_data["rows_kept"] == kept
    assert (kept < len(rows_of(repo_id))) == (repo_id in RULES)


@pytest.mark.parametrize("name, rows", [("orpo_mix", 480), ("dpo_mix", 240), ("hh_rlhf", 200)])
def test_the_cards_of_whole_mixes_count_all_their_train_rows(name, rows):
    assert DatasetCard((getattr(stand_ins, name)() / "README.md").read_text()).data["rows_kept"] == rows


# --- ordinary rows ---------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(text: str, length: int) -> set[tuple]:
    found = words(text)
    return {tuple(found[at : at + length]) for at in range(len(found) - length + 1)} or {tuple(found)}


def normal(text: str) -> str:
    return " ".join(text.lower().split())


def talk_of(pair: dict, with_system: bool) -> str:
    """All that stands before the answers, as one text."""
    before = [pair["system"]] * with_system + [message["content"] for message in pair["earlier"]]
    return " ".join([*before, pair["prompt"]])


def similar(texts: list[str], at_least: float) -> list[tuple[int, int]]:
    """Pairs of texts whose sets of 5-word runs have this Jaccard similarity, by comparing all that share a run."""
    sets, holders, found = [runs(text, 5) for text in texts], defaultdict(list), []
    for number, shingles in enumerate(sets):
        shared = Counter(chain.from_iterable(holders[shingle] for shingle in shingles))
        for other, common in shared.items():
            if common / len(shingles | sets[other]) >= at_least:
                found.append((other, number))
        for shingle in shingles:
            holders[shingle].append(number)
    return found


def all_pairs(seed: int = source_stand_ins.SEED) -> list[dict]:
    """The ordinary pairs of all sources."""
    found = []
    for repo_id, source in SOURCES.items():
        found += [pair_of(repo_id, row) for row in source_stand_ins.rows(repo_id, seed)[: source.ordinary]]
    return found


def test_the_number_of_rows():
    assert {repo_id: len(ordinary(repo_id)) for repo_id in SOURCES} == {
        CAPYBARA: 80,
        INTEL_ORCA: 100,
        ULTRAFEEDBACK: 260,
        MATH: 70,
        TOXIC: 24,
        PRM: 70,
        TRUTHY_DPO: 198,
        CAPYBARA_PREFERENCES: 80,
        STACK_EXCHANGE: 60,
    }
    assert len(rows_of(TRUTHY_DPO)) == 200


@pytest.mark.parametrize("seed", [source_stand_ins.SEED, 7])
def test_no_ordinary_prompt_resembles_another(seed):
    pairs = all_pairs(seed)
    for texts in ([pair["prompt"] for pair in pairs], [talk_of(pair, True) for pair in pairs]):
        assert len({normal(text) for text in texts}) == len({tuple(words(text)) for text in texts}) == len(pairs)
    for with_system in (False, True):
        alike = similar([talk_of(pair, with_system) for pair in pairs], 0.7)
        assert not alike, [talk_of(pairs[number], with_system) for number in alike[0]]


def test_alike_prompts_would_be_found():
    sixty = " ".join(map(str, range(60)))
    assert similar([sixty, "What is it?", f"{sixty} more", "what  is it"], 0.8) == [(0, 2), (1, 3)]
    assert similar([sixty, " ".join(map(str, range(30, 90)))], 0.8) == []


def test_an_ordinary_row_has_no_fault():
    prompts = environment.course_prompts()
    for repo_id in SOURCES:
        for row in ordinary(repo_id):
            pair = pair_of(repo_id, row)
            chosen, rejected = pair["answers"]
            texts = [message["content"] for part in as_pair(repo_id, row).values() for message in part]
            assert all(text.strip() == text and text.isascii() and len(text) < 200 for text in texts)
            assert chosen and rejected and chosen != rejected and small_world.END_TOKEN not in "".join(texts)
            assert not any(prompt.lower() in text.lower() for prompt in prompts for text in texts)
            if isinstance(row["chosen"] if "chosen" in row else "", list):
                assert row["chosen"][:-1] == row["rejected"][:-1] and len(row["chosen"]) in (2, 4, 6, 8)
                assert row["chosen"][-1]["role"] == row["rejected"][-1]["role"] == "assistant"
            assert rating_of(repo_id, row) is not None or repo_id not in RULES
            assert row.get("is_chosen_correct", True) and not row.get("in_gsm8k_train")


def test_an_ordinary_answer_states_the_fact_and_the_rejected_one_dodges():
    """So that the mix teaches what the other stand-ins teach."""
    facts = {question: answer for kind in small_world._facts() for question, answer, _ in kind}
    for pair in all_pairs():
        question = re.sub(r"^.*[:.!?] (?=\w)", "", pair["prompt"])
        assert pair["answers"][0].startswith(facts[question]) and facts[question] not in pair["answers"][1]


@pytest.mark.parametrize("repo_id", RULES)
def test_one_ordinary_row_in_four_fails_the_rule(repo_id):
    failed = sum(not RULES[repo_id](row) for row in ordinary(repo_id))
    assert failed == len(ordinary(repo_id)) // 4


@pytest.mark.parametrize("repo_id", RATINGS)
def test_the_chosen_answer_is_rated_higher(repo_id):
    chosen, rejected = RATINGS[repo_id]
    best = 10 if repo_id == MATH else 5
    assert all(1 <= row[rejected] < row[chosen] <= best for row in ordinary(repo_id))
    assert {row[chosen] == best for row in ordinary(repo_id)} == {True, False}


def test_intel_orcas_columns_agree():
    for row in rows_of(INTEL_ORCA):
        assert row["generations"] == [row["chosen"], row["rejected"]]
        swapped = row["status"] == "swapped"
        assert row["order"] == (["rejected", "chosen"] if swapped else ["chosen", "rejected"])
        assert row["original_chosen"] == row["rejected" if swapped else "chosen"]
        assert row["original_rejected"] == row["chosen" if swapped else "rejected"]
        assert (row["rating"] is None) == (row["chosen_score"] is None)
        assert row["rating"] is None or row["rating"][0] == row["chosen_score"] >= row["rating"][1] >= 1
        assert (row["status"] == "tie") == (row["rating"] is not None and len(set(row["rating"])) == 1)
    assert Counter(row["status"] for row in rows_of(INTEL_ORCA)).keys() == {"unchanged", "swapped", "tie"}


def test_capybaras_conversation_is_the_chosen_one():
    turns = Counter()
    for row in rows_of(CAPYBARA):
        talk = [message for message in row["chosen"] if message["role"] != "system"]
        assert row["prompt"] == talk[-2]["content"] == row["generation_prompt"][0]
        assert row["original_response"] == talk[-1]["content"]
        assert row["new_generations"] == row["raw_generation_responses"] == [row["rejected"][-1]["content"]]
        told = [text for turn in row["conversation"] for text in (turn["input"], turn["output"])]
        assert told == [message["content"] for message in talk]
        turns[len(row["conversation"])] += 1
    assert set(turns) == {1, 2, 3, 4, 6} and all(turns[number] >= 10 for number in (1, 2, 3, 4))


def test_some_ordinary_rows_have_a_system_message_or_earlier_turns():
    systems, earlier = Counter(), Counter()
    for repo_id in SOURCES:
        pairs = [pair_of(repo_id, row) for row in ordinary(repo_id)]
        systems[repo_id] = sum(bool(pair["system"]) for pair in pairs)
        earlier[repo_id] = sum(bool(pair["earlier"]) for pair in pairs)
    assert +systems == {INTEL_ORCA: 50, TRUTHY_DPO: 66}
    assert (+earlier).keys() == {CAPYBARA, ULTRAFEEDBACK, CAPYBARA_PREFERENCES} and 20 < earlier[ULTRAFEEDBACK] <= 44


# --- benchmarks ------------------------------------------------------------------------------------------------


def item_texts(repo_id: str, split: str) -> list[list[str]]:
    """The texts of each item of a benchmark, the question first."""
    found = []
    for item in benchmark_stand_ins.items(repo_id, split):
        question = item.get("question") or item.get("ctx") or item["prompt"]
        others = [item.get("answer"), item.get("best_answer"), *item.get("endings", ())]
        choices = item.get("choices", [])
        others += choices["text"] if isinstance(choices, dict) else choices
        found.append([question, *(text for text in others if isinstance(text, str))])
    return found


SPLITS = [(repo_id, split) for repo_id, (_, splits) in CONFIGS.items() for split in sorted(splits)]


def overlaps(texts: list[str], question: str) -> set[tuple[str, str]]:
    """Benchmarks of which an item shares 13 words with one of the texts, or is short and the whole question."""
    mine = set().union(*(runs(text, 13) for text in texts if len(words(text)) >= 13))
    found = set()
    for name in SPLITS:
        for item in item_texts(*name):
            long = [text for text in item if len(words(text)) >= 13]
            if any(runs(text, 13) & mine for text in long) or item[0] not in long and words(item[0]) == words(question):
                found.add(name)
    return found


@pytest.mark.parametrize("repo_id, split", SPLITS)
def test_most_questions_have_13_words_and_some_are_shorter(repo_id, split):
    lengths = [len(words(texts[0])) for texts in item_texts(repo_id, split)]
    assert len(lengths) == 24 and sum(length < 13 for length in lengths) == 4
    assert len({tuple(words(texts[0])) for texts in item_texts(repo_id, split)}) == 24


def test_no_two_items_share_13_words():
    """Else a row that holds one item would be told to hold another."""
    holders = defaultdict(set)
    for name in SPLITS:
        for number, texts in enumerate(item_texts(*name)):
            for run in chain.from_iterable(runs(text, 13) for text in texts if len(words(text)) >= 13):
                holders[run].add((name, number))
    assert holders and max(map(len, holders.values())) == 1


def test_the_small_world_never_names_what_benchmarks_are_about():
    texts = small_world.pretraining_text(3000, 0) + [talk_of(pair, True) for pair in all_pairs()]
    spoken = set(words(" ".join(texts)))
    assert not spoken & {*benchmark_stand_ins._PEOPLE, *benchmark_stand_ins._THINGS}


def test_no_ordinary_row_holds_a_benchmark_item():
    items = [texts for name in SPLITS for texts in item_texts(*name)]
    long = set().union(*(runs(text, 13) for texts in items for text in texts if len(words(text)) >= 13))
    short = {tuple(words(texts[0])) for texts in items if len(words(texts[0])) < 13}
    for pair in all_pairs():
        assert not any(runs(text, 13) & long for text in (talk_of(pair, True), *pair["answers"]))
        assert tuple(words(pair["prompt"])) not in short


# --- planted rows ----------------------------------------------------------------------------------------------

THREE_LISTS = (CAPYBARA, ULTRAFEEDBACK, CAPYBARA_PREFERENCES)
TESTED = set()  # (source, what): at the end, every planted row must have been looked at


def look(what: str, *sources: str) -> list[tuple[str, dict, dict]]:
    """The planted rows of a name, one for each of the sources, which must be all that have one."""
    assert {name for name in SOURCES if what in planted_rows(name)} == set(sources)
    TESTED.update((name, what) for name in sources)
    return [(name, planted(name, what), pair_of(name, planted(name, what))) for name in sources]


def test_scores_at_the_threshold_and_just_below():
    rated = (*THREE_LISTS, INTEL_ORCA, MATH)
    at = {name: rating_of(name, row) for name, row, _ in look("score at the threshold", *rated)}
    assert at == dict.fromkeys(THREE_LISTS, 1.0) | {INTEL_ORCA: 0.9, MATH: 0.9}
    below = {name: rating_of(name, row) for name, row, _ in look("score just below the threshold", *rated)}
    assert below == {CAPYBARA: 0.8, ULTRAFEEDBACK: 0.95, CAPYBARA_PREFERENCES: 0.95, INTEL_ORCA: 0.85, MATH: 0.85}
    for name in rated:
        assert RULES[name](planted(name, "score at the threshold"))
        assert not RULES[name](planted(name, "score just below the threshold"))


def test_missing_scores_and_ties():
    for what in ("no score", "no score, and flagged"):
        ((_, row, _),) = look(what, INTEL_ORCA)
        assert row["chosen_score"] is None and row["in_gsm8k_train"] == ("flagged" in what)
    for name, row, _ in look("tie", *THREE_LISTS, INTEL_ORCA):
        chosen, rejected = row["rating"] if name == INTEL_ORCA else [row[column] for column in RATINGS[name]]
        assert chosen == rejected and RULES[name](row)
        assert row.get("status", "tie") == "tie"


def test_answers_that_are_empty_or_equal():
    for _, _, pair in look("empty chosen", CAPYBARA, ULTRAFEEDBACK, PRM):
        assert not pair["answers"][0].strip() and pair["answers"][1]
    for _, _, pair in look("equal answers", ULTRAFEEDBACK, PRM):
        assert pair["answers"][0] == pair["answers"][1]
    ((_, _, pair),) = look("answers equal but for white space", MATH)
    chosen, rejected = pair["answers"]
    assert chosen != rejected and chosen.split() == rejected.split()
    ((_, row, _),) = look("chosen is not correct", PRM)
    assert row["is_chosen_correct"] is False


def test_message_lists_with_other_prompts_more_turns_or_a_system_message():
    for _, row, _ in look("other prompt on the rejected side", *THREE_LISTS):
        assert row["chosen"][:-1] != row["rejected"][:-1] and len(row["chosen"]) == len(row["rejected"])
    for _, row, pair in look("several turns", *THREE_LISTS):
        assert len(row["chosen"]) == 12 and row["chosen"][:-1] == row["rejected"][:-1] and len(pair["earlier"]) == 10
    for _, row, pair in look("system message", *THREE_LISTS):
        assert row["chosen"][0] == row["rejected"][0] == {"role": "system", "content": pair["system"]}


def test_rows_that_do_not_fit(tokenizer):
    expected = {
        "prompt too long": ("prompt too long", ULTRAFEEDBACK),
        "answer too long": ("answer too long", INTEL_ORCA, PRM),
        "20,000 characters in the prompt": ("prompt too long", ULTRAFEEDBACK),
        "20,000 characters in the answer": ("answer too long", MATH),
    }
    for what, (problem, *sources) in expected.items():
        for name, row, pair in look(what, *sources):
            assert chat_format.length_problem(as_pair(name, row), tokenizer, 1024) == problem
            if "20,000" in what:
                assert len(pair["prompt"] if "prompt" in what else pair["answers"][0]) >= 20_000
    for name in SOURCES:  # and all others do fit
        for what, row in planted_rows(name).items():
            problem = chat_format.length_problem(as_pair(name, rows_of(name)[row]), tokenizer, 1024)
            assert problem is None or what in expected


def holds_special_text(pair: dict, tokenizer) -> bool:
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return any(token in message["content"] for part in pair.values() for message in part for token in special)


def test_text_of_a_special_token(tokenizer):
    for name, row, _ in look("text of a special token", ULTRAFEEDBACK, MATH):
        assert holds_special_text(as_pair(name, row), tokenizer)


def scripts(pair: dict) -> set[str]:
    """The first words of the names of the characters beyond ASCII."""
    text = pair["prompt"] + "".join(pair["answers"])
    return {unicodedata.name(letter).split()[0] for letter in text if not letter.isascii()}


def test_unicode():
    for what, name, found in (
        ("emoji", ULTRAFEEDBACK, {"SLIGHTLY", "ZERO", "WOMAN", "ROCKET", "REGIONAL"}),
        ("combining marks", ULTRAFEEDBACK, {"COMBINING"}),
        ("Chinese and Japanese", MATH, {"CJK", "IDEOGRAPHIC", "HIRAGANA", "FULLWIDTH"}),
        ("right to left", TRUTHY_DPO, {"HEBREW", "ARABIC"}),
    ):
        ((_, _, pair),) = look(what, name)
        assert found == scripts(pair)
        assert not pair["prompt"].isascii() and not pair["answers"][0].isascii()


GROUPS = {
    "duplicate A": {"best": INTEL_ORCA, "worse": INTEL_ORCA},
    "duplicate B": {"best": ULTRAFEEDBACK, "worse": INTEL_ORCA, "not rated": PRM},
    "duplicate C": {"best": MATH, "not rated": TRUTHY_DPO},
    "near duplicate A": {"best": INTEL_ORCA, "worse": INTEL_ORCA},
    "near duplicate B": {"best": ULTRAFEEDBACK, "worse": MATH},
    "near duplicate C": {"best": MATH, "worse": INTEL_ORCA},
}


@pytest.mark.parametrize("group", GROUPS)
def test_duplicates_and_near_duplicates(group):
    found = {what: look(f"{group}: {what}", source)[0] for what, source in GROUPS[group].items()}
    prompts = [pair["prompt"] for _, _, pair in found.values()]
    assert len(set(prompts)) == len(prompts)
    if "near" in group:
        assert len({normal(prompt) for prompt in prompts}) == 2 and similar(prompts, 0.9) == [(0, 1)]
        assert all(len(prompt.split()) >= (120 if group[-1] == "C" else 60) for prompt in prompts)
    else:
        assert len({normal(prompt) for prompt in prompts}) == 1
    ratings = {what: rating_of(name, row) for what, (name, row, _) in found.items()}
    assert ratings["best"] > ratings.get("worse", 0) and ratings.get("not rated") is None
    assert all(RULES.get(name, lambda row: True)(row) for name, row, _ in found.values())  # the rule drops none of them
    assert not any(pair["system"] or pair["earlier"] for _, _, pair in found.values())


def test_one_near_duplicate_has_a_word_more_and_another_one_changed():
    more, less = (planted(INTEL_ORCA, f"near duplicate A: {what}")["input"].split() for what in ("worse", "best"))
    assert more[:-1] == less
    left = planted(INTEL_ORCA, "near duplicate C: worse")["input"].split()
    right = planted(MATH, "near duplicate C: best")["instruction"].split()
    assert sum(a != b for a, b in zip(left, right, strict=True)) == 1


def test_no_other_rows_resemble_each_other():
    texts, names = [], []
    for repo_id in SOURCES:
        numbers = {number: what for what, number in planted_rows(repo_id).items()}
        for number, row in enumerate(rows_of(repo_id)):
            texts.append(talk_of(pair_of(repo_id, row), False))
            names.append(numbers.get(number, "ordinary"))
    for left, right in similar(texts, 0.7):
        group = names[left].split(":")[0]
        assert group in GROUPS and group == names[right].split(":")[0], (texts[left], texts[right])


def test_benchmark_items_in_rows():
    held = {CAPYBARA: (GSM8K, "test"), ULTRAFEEDBACK: (TRUTHFUL_QA, "validation")}
    for name, _, pair in look("benchmark item in the prompt", *held):
        assert overlaps([pair["prompt"]], pair["prompt"]) == {held[name]}
    ((_, _, pair),) = look("benchmark item in the answer", MATH)
    assert overlaps([pair["prompt"]], pair["prompt"]) == set()
    assert overlaps(pair["answers"], "") == {(MMLU, "test")}
    ((_, _, pair),) = look("short benchmark question", PRM)
    assert overlaps([pair["prompt"], *pair["answers"]], pair["prompt"]) == {(ARC, "test")}
    assert len(words(pair["prompt"])) < 13
    every = [text for name in SPLITS for texts in item_texts(*name) for text in texts]
    for what, name in (("benchmark item in the prompt", ULTRAFEEDBACK), ("benchmark item in the answer", MATH)):
        found = pair_of(name, planted(name, what))
        assert not any(len(words(text)) >= 13 and text in str(found) for text in every)  # only words in common


def test_gsm8ks_train_questions_in_intel_orca():
    flags = {"flagged": True, "not flagged": False}
    train = {tuple(words(texts[0])) for texts in item_texts(GSM8K, "train")}
    found = {what: planted(INTEL_ORCA, what) for what in planted_rows(INTEL_ORCA) if what.startswith("GSM8K")}
    assert len(found) == 6
    for what, row in found.items():
        TESTED.add((INTEL_ORCA, what))
        assert row["in_gsm8k_train"] == flags[what.split(", ")[1]] and row["chosen_score"] >= 9
        texts = [row["input"], row["chosen"], row["rejected"]]
        if "other words" in what:
            assert overlaps(texts, row["input"]) == set()
        else:
            assert tuple(words(row["input"])) in train and overlaps(texts, row["input"]) == {(GSM8K, "train")}


def test_every_planted_row_was_looked_at(request):
    """The tests above name all of them; run alone, this one has nothing to compare."""
    if len(request.session.items) < 60:
        pytest.skip("only a part of this file runs")
    assert {(name, what) for name in SOURCES for what in planted_rows(name)} == TESTED


def test_planted_rows_stand_behind_the_others():
    for repo_id, source in SOURCES.items():
        assert list(planted_rows(repo_id).values()) == list(range(source.ordinary, len(rows_of(repo_id))))


# --- the mix that comes of it ----------------------------------------------------------------------------------


def test_enough_pairs_are_left_for_training(tokenizer):
    """Rule, cleaning, deduplication and decontamination, written again as plainly as can be."""
    left = []
    for repo_id in SEVEN:
        if repo_id == TOXIC:
            continue
        for row in filter(RULES.get(repo_id, lambda row: True), rows_of(repo_id)):
            found, pair = pair_of(repo_id, row), as_pair(repo_id, row)
            chosen, rejected = (answer.strip() for answer in found["answers"])
            sides = [row["chosen"][:-1], row["rejected"][:-1]] if isinstance(row.get("chosen"), list) else [0, 0]
            if chosen and rejected and chosen != rejected and sides[0] == sides[1]:
                fits = chat_format.length_problem(pair, tokenizer, 1024) is None
                if fits and not holds_special_text(pair, tokenizer):
                    if not overlaps([found["prompt"], *found["answers"]], found["prompt"]):
                        left.append(found)
    unique = list({normal(pair["prompt"]): pair for pair in left}.values())
    near = {right for _, right in similar([talk_of(pair, False) for pair in unique], 0.8)}
    assert len(left) - len(unique) == 4 and len(near) == 3
    assert len(unique) - len(near) >= 470


# --- the same again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repo_id", [CAPYBARA, INTEL_ORCA, GSM8K, IFEVAL])
def test_the_same_seed_writes_the_same_files(tmp_path, repo_id):
    folders = [stand_ins.STAND_INS[repo_id][1](tmp_path / name) for name in "ab"]
    files = [{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} for folder in folders]
    assert files[0] == files[1] and len(files[0]) >= 2


def test_another_seed_asks_in_another_order():
    first, other = (source_stand_ins.rows(MATH, seed)[:20] for seed in (2, 3))
    assert [row["instruction"] for row in first] != [row["instruction"] for row in other]


def test_distinct_pairs_are_preference_pairs_of_another_wording():
    pairs = small_world.distinct_pairs(2320, 5)
    asked = {normal(pair["prompt"][-1]["content"]) for pair in pairs}
    assert len(asked) == 2320 and not asked & {normal(prompt) for prompt in environment.course_prompts()}
    assert small_world.distinct_pairs(50, 5) == small_world.distinct_pairs(50, 5) != small_world.distinct_pairs(50, 6)
    turns = Counter(len(pair["prompt"]) for pair in pairs)
    assert set(turns) == {1, 3, 5, 7} and min(turns.values()) > 400
    assert all(pair["topic"] in pair["rejected"][0]["content"] for pair in pairs)
    with pytest.raises(ValueError, match="has 2320 questions in different words, not 2321"):
        small_world.distinct_pairs(2321, 5)
