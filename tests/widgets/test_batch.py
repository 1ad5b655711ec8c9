"""The picture of a batch: every token in its role, nothing of a text becomes markup, and a packed row as it lies."""

import re

import pytest
from support.trl_pairs import LABEL_OF_PROMPT, PAIRS, SIDES, answer_tokens, make_pair, tokenized_by_trl
from support.trl_pairs import trainer as trainer

from utils import widgets
from utils.widgets.batch import COLOURS


def show_batch(*arguments, **options) -> str:
    return widgets.show_batch(*arguments, **options).data


TOKEN = re.compile(r'<span style="([^"]*)" title="(\w+), id (\d+)">(.*?)</span>', re.DOTALL)


@pytest.fixture(scope="module")
def batch(trainer):
    """Rows 0 and 1 of unequal length, so that there is padding."""
    return trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])


def test_every_token_is_drawn_in_its_role(batch, tokenizer):
    page = show_batch(batch, tokenizer, rows=2, max_tokens=1000)
    drawn = [(role, int(token)) for _, role, token, _ in TOKEN.findall(page)]
    expected = []
    for row in range(2):
        for side in SIDES:
            keys = (batch[f"{side}_{key}"][row].tolist() for key in ("input_ids", "labels", "attention_mask"))
            for token, label, mask in zip(*keys, strict=True):
                role = "padding" if mask == 0 else "prompt" if label == LABEL_OF_PROMPT else side
                expected.append((role, token))
    assert drawn == expected
    assert {role for role, _ in drawn} == {"prompt", "chosen", "rejected", "padding"}


def test_roles_have_their_colours(batch, tokenizer):
    page = show_batch(batch, tokenizer, rows=2, max_tokens=1000)
    colours = {(role, re.search("background:(#[0-9a-f]{6})", style)[1]) for style, role, _, _ in TOKEN.findall(page)}
    assert colours == set(COLOURS.items())
    assert len({colour for _, colour in colours}) == 4
    legend = page.split("</p>")[0]
    for role, colour in COLOURS.items():
        assert re.search(f'background:{colour}[^"]*">{role}<', legend)


def test_the_end_token_is_drawn_as_part_of_the_answer(batch, tokenizer):
    page = show_batch(batch, tokenizer)
    ends = [role for _, role, token, _ in TOKEN.findall(page) if int(token) == tokenizer.eos_token_id]
    assert ends == ["prompt", "chosen", "prompt", "rejected"]


def test_html_in_a_prompt_is_escaped(trainer, tokenizer):
    pair = make_pair("<script>alert('1')</script> <b>&amp;", "<img src=x onerror=alert(1)>", "<i>no</i>")
    batch = trainer.data_collator([tokenized_by_trl(trainer, pair, 1024)])
    page = show_batch(batch, tokenizer, max_tokens=1000)
    assert set(re.findall(r"</?(\w+)", page)) == {"div", "p", "span", "b", "br"}  # its own tags alone
    letters = "".join(text for _, _, _, text in TOKEN.findall(page))
    assert "&lt;script&gt;alert(" in letters and "&amp;amp;" in letters and "&lt;img&middot;src=x" in letters


def test_a_long_prompt_is_cut_at_the_front(trainer, tokenizer):
    pair = make_pair("What is it? " * 200, "White.", "No.")
    batch = trainer.data_collator([tokenized_by_trl(trainer, pair, 4096)])
    page = show_batch(batch, tokenizer, max_tokens=60)
    drawn = [role for _, role, _, _ in TOKEN.findall(page)]
    assert drawn.count("chosen") == len(answer_tokens(tokenized_by_trl(trainer, pair, 4096), "chosen"))
    assert drawn.count("prompt") == 60 and len(drawn) <= 120  # half of the room of each side
    assert page.count("&hellip;") == 2


def test_only_the_rows_asked_for_are_drawn(batch, tokenizer):
    assert show_batch(batch, tokenizer).count("<b>chosen</b>") == 1
    assert show_batch(batch, tokenizer, rows=9).count("<b>rejected</b>") == 2


PLACE = re.compile(r'<span style="([^"]*)" title="(\w+), position (\d+), id (\d+)">(.*?)</span>', re.DOTALL)


def pack(trainer, *pairs, max_length=1024):
    """TRL's own tokens of some pairs, as the rows of a trainer and packed into one."""
    from utils.train.fused_orpo import PackingCollator

    rows = [tokenized_by_trl(trainer, pair, max_length) for pair in pairs]
    return rows, PackingCollator()(rows)


def segments(page: str) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """What each paragraph is called, and (role, position, id) of the tokens that it draws."""
    found = []
    for paragraph in page.split("</p>")[1:-1]:
        tokens = [(role, int(position), int(token)) for _, role, position, token, _ in PLACE.findall(paragraph)]
        found.append((re.search("<b>(.*?)</b>", paragraph)[1], tokens))
    return found


def test_a_packed_row_is_drawn_as_it_lies(trainer, tokenizer):
    rows, batch = pack(trainer, PAIRS[0], PAIRS[1])
    page = show_batch(batch, tokenizer, rows=2, max_tokens=1000)
    drawn = segments(page)
    assert [name for name, _ in drawn] == ["prefix", "chosen", "rejected"] * 2
    tokens = [token for _, part in drawn for token in part]
    assert [token for _, _, token in tokens] == batch["input_ids"][0].tolist()
    assert [position for _, position, _ in tokens] == batch["position_ids"][0].tolist()
    for number, row in enumerate(rows):
        prefix, *branches = (part for _, part in drawn[3 * number : 3 * number + 3])
        assert {role for role, _, _ in prefix} == {"prompt"}  # it stands once, all but the token where they part
        for side, branch in zip(SIDES, branches, strict=True):
            assert branch[0][1] == len(prefix)  # positions begin anew
            expected = ["prompt" if label == LABEL_OF_PROMPT else side for label in row[f"{side}_labels"]]
            assert [role for role, _, _ in prefix + branch] == expected
            assert [token for _, _, token in prefix + branch] == row[f"{side}_input_ids"]


def test_what_two_answers_begin_with_has_both_colours(trainer, tokenizer):
    pair = make_pair("What colour is snow?", "The colour of snow is white.", "The colour of snow is a secret.")
    (row,), batch = pack(trainer, pair)
    page = show_batch(batch, tokenizer, max_tokens=1000)
    (_, prefix), (_, chosen), (_, rejected) = segments(page)
    same = [token for role, _, token in prefix if role == "both"]
    assert tokenizer.decode(same).startswith("The colour of snow")
    assert {role for role, _, _ in prefix} == {"prompt", "both"}
    assert {role for role, _, _ in chosen} == {"chosen"} and {role for role, _, _ in rejected} == {"rejected"}
    answer = [token for token, label in zip(row["chosen_input_ids"], row["chosen_labels"], strict=True) if label >= 0]
    assert same + [token for _, _, token in chosen] == answer


def test_a_packed_rows_legend_has_no_padding(trainer, tokenizer):
    pair = make_pair("What colour is snow?", "It is white.", "It is a secret.")
    page = show_batch(pack(trainer, pair)[1], tokenizer)
    colours = dict(re.findall(r'background:([^;]*);[^"]*">(\w+)<', page.split("</p>")[0]))
    assert list(colours.values()) == ["prompt", "chosen", "rejected", "both"] and len(colours) == 4
    for style, role, *_ in PLACE.findall(page):
        assert colours[re.search("background:([^;]*);", style)[1]] == role


def test_a_long_prefix_is_cut_at_the_front(trainer, tokenizer):
    pair = make_pair("What is it? " * 200, "White.", "No. " * 100)
    page = show_batch(pack(trainer, pair, max_length=4096)[1], tokenizer, max_tokens=60)
    (_, prefix), (_, chosen), (_, rejected) = segments(page)
    assert len(prefix) == 30 and len(chosen) < 30 and len(rejected) == 30
    assert prefix[-1][1] + 1 == chosen[0][1] == rejected[0][1]
    assert page.count("&hellip;") == 1 and "<b>prefix</b> from position 0 on" in page


def test_a_pair_with_nothing_in_common_has_no_prefix(trainer, tokenizer):
    from utils.train.fused_orpo import PackingCollator

    (row,), _ = pack(trainer, PAIRS[0])
    row["rejected_input_ids"] = row["rejected_input_ids"][::-1]
    page = show_batch(PackingCollator()([row]), tokenizer, rows=9, max_tokens=1000)
    assert "<p>no prefix<br></p>" in page and page.count("<b>chosen</b>") == 1
