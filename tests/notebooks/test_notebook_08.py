"""Notebook 08, run for real: the mechanisms that it shows, on the stand-in, and the account that it gives."""

import json

import pytest

METHODS = {"SFT": "sft", "SFT then DPO": "sft_then_dpo", "DPO": "dpo", "ORPO": "orpo"}


@pytest.fixture(scope="module")
def compared(course, recorded) -> tuple[dict, dict]:
    """What notebook 08 recorded in the course's own run, and the results that it wrote."""
    _, output = course
    return recorded["08"], json.loads((output / "comparison" / "results.json").read_text())


def test_sft_alone_lifts_the_rejected_answers_too(compared):
    figures, _ = compared
    assert figures["sft_chosen_change"] > 0.1 and figures["sft_rejected_change"] > 0.05


def test_a_preference_term_parts_the_answers_further_than_likelihood_alone(compared):
    figures, _ = compared
    alone = figures["sft_margin_change"]
    for name in ("orpo", "dpo"):
        assert figures[f"{name}_margin_change"] > alone + 0.05, name
    assert figures["orpo_rejected_change"] < figures["sft_rejected_change"]
    assert figures["orpo_chosen_change"] > 0.1, "its first term is SFT's"


def test_the_second_stage_parts_what_the_first_lifted(compared):
    _, results = compared
    start, _, after_sft, _, end = results["methods"]["SFT then DPO"]["points"]
    assert after_sft["rejected"] > start["rejected"] + 0.05 and after_sft["chosen"] > start["chosen"] + 0.1
    assert end["margin"] > after_sft["margin"] + 0.05 and end["rejected"] < after_sft["rejected"]


def test_the_reference_is_the_sft_model_and_stays(compared):
    figures, _ = compared
    assert figures["reference_margin_at_start"] == pytest.approx(0, abs=1e-6)
    assert figures["reference_off"] < 1e-4 and figures["reference_moved"] < 1e-4


def test_all_trainers_make_the_same_tokens(compared):
    assert compared[0]["same_tokens"] is True


def test_the_ruler_agrees_with_trls_own_figure(compared):
    figures, _ = compared
    assert figures["dpo_margin"] == pytest.approx(figures["dpo_margin_by_trl"], rel=1e-3)
    assert figures["dpo_margin"] > 0.1


def test_every_method_spends_the_budget(compared):
    figures, results = compared
    assert results["budget_tokens"] == figures["budget_tokens"] > 1000
    for name, short in METHODS.items():
        assert results["methods"][name]["points"][-1]["tokens"] == figures[f"{short}_tokens"]
        assert figures[f"{short}_tokens"] == pytest.approx(figures["budget_tokens"], rel=0.15), name
    read = {name: method["reference_tokens"] for name, method in results["methods"].items()}
    assert read["SFT"] == read["ORPO"] == 0 and read["DPO"] == figures["dpo_tokens"]
    assert 0.3 < read["SFT then DPO"] / figures["dpo_tokens"] < 0.7


def test_all_start_at_one_point_and_were_measured_on_the_way(compared):
    _, results = compared
    tracks = results["methods"]
    assert list(tracks) == list(METHODS)
    start = tracks["SFT"]["points"][0]
    for track in tracks.values():
        assert track["points"][0] == start and start["tokens"] == 0
        assert len(track["points"]) == 5 and track["seconds"] > 0 and track["peak_gb"] > 0
        tokens = [point["tokens"] for point in track["points"]]
        assert tokens == sorted(set(tokens))
    assert results["pairs"]["test"] >= 30
    assert results["revisions"]["base_model"] and results["revisions"]["dataset"]


def test_settings_for_other_tools_lie_beside_the_results(course):
    _, output = course
    tools = {"axolotl", "llama-factory", "autotrain", "trl-cli"}
    assert {path.stem for path in (output / "comparison").glob("*/*.yaml")} == tools
    for tool in tools:
        pairs = (output / "comparison" / tool / "pairs" / "train.jsonl").read_text().splitlines()
        assert len(pairs) == 96 and set(json.loads(pairs[0])) == {"prompt", "chosen", "rejected"}
