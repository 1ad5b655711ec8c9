"""One call loads, judges and splits the pairs of any data set, and trusts what notebook 02 judged already."""

import json

import pandas as pd
import pytest
from datasets import Dataset, disable_progress_bars

from utils import environment
from utils.data import chat_format, load_pairs, loading, mix_files
from utils.practice import stand_ins

disable_progress_bars()


def row(question: str, chosen: str = "Yes.", rejected: str = "Perhaps.") -> dict:
    return {"prompt": question, "chosen": chosen, "rejected": rejected}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Forty good rows, and one for each reason of the judge."""
    bad = [row("Same?", "a", "a"), row("Empty?", ""), row("Long? " * 3000), row(environment.course_prompts()[0])]
    rows = [row(f"Question {number}?") for number in range(40)] + [*bad, row("A <|end_of_text|> in it?")]
    path = tmp_path_factory.mktemp("pairs") / "mine.jsonl"
    path.write_text("".join(json.dumps(it) + "\n" for it in rows))
    return path


def test_a_file_is_judged_and_every_row_accounted_for(file, tokenizer, capsys):
    pairs, report = load_pairs(str(file), tokenizer, None, 5, 512)
    told = report.as_dict()
    reasons = ["equal answers", "empty answer", "prompt too long", "asked by the course", "text of a special token"]
    assert told["dropped"] == dict.fromkeys(reasons, 1)
    assert told["examined"] == 45 and sum(told["kept"].values()) == 40 == len(pairs["train"]) + len(pairs["test"])
    assert told["dataset"] == "mine.jsonl" and told["commit"] is None and "mix" not in told
    assert json.loads(json.dumps(told)) == told and "dropped       1  asked by the course" in str(report)
    assert capsys.readouterr().out == ""


def test_a_hub_id_is_pinned_and_may_name_its_revision(hub, tokenizer):
    pairs, report = load_pairs(f"{stand_ins.ORPO_MIX}@v1.0", tokenizer, 60, 20, 1024)
    assert report.origin["commit"] == loading.hub.describe_repository(stand_ins.ORPO_MIX, "dataset", "v1.0").commit
    assert {name: len(part) for name, part in pairs.items()} == {"train": 60, "test": 20}
    again, _ = load_pairs(stand_ins.ORPO_MIX, tokenizer, 60, 20, 1024, revision="v1.0")
    assert again["train"].to_list() == pairs["train"].to_list()


@pytest.fixture
def artifacts(tmp_path, tokenizer):
    """The folder of a mix that says it was judged, with a row that this cannot be true of."""
    folder = tmp_path / "mix"
    folder.mkdir()
    prompts = [row(f"Question {number}?") for number in range(30)] + [row("Empty?", "")]
    made = [loading.pair_rows.to_pair(it) for it in prompts]
    for split, part in (("train", made[8:]), ("test", made[:8])):
        Dataset.from_list(part).to_parquet(folder / f"{split}.parquet")
    report = {
        "sources": {},
        "totals": {"rows": 31},
        "tokenizer": {"fingerprint": chat_format.fingerprint(tokenizer)},
        "parameters": {"MAX_LENGTH": 1024},
        "sha256": {name: mix_files._sha256(folder / name) for name in ("train.parquet", "test.parquet")},
    }
    (folder / "report.json").write_text(json.dumps(report))
    return tmp_path


def test_a_mix_is_trusted_for_the_tokenizer_and_window_it_was_judged_for(artifacts, tokenizer):
    def empty(max_length=1024):
        _, report = load_pairs(str(artifacts / "mix"), tokenizer, None, 5, max_length)
        assert report.origin["mix"]["totals"] == {"rows": 31}
        return report.as_dict()["dropped"].get("empty answer", 0)

    assert empty() == empty(2048) == 0
    assert empty(512) == 1  # a shorter window: all is judged again
    pd.read_parquet(artifacts / "mix" / "train.parquet").to_parquet(artifacts / "mix" / "train.parquet")
    assert empty() == 1  # somebody changed the file
