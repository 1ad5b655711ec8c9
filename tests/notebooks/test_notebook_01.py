"""Notebook 01, run for real: the loss that it computes by hand is the trainer's, and its curves show the mechanism."""

import json

import pytest

from utils.orpo import figures as orpo_figures

RUNS = ["SFT", "ORPO 0.1", "ORPO 0.5", "ORPO 1.0"]


@pytest.fixture(scope="module")
def trained(course, recorded) -> tuple[dict, dict]:
    """What notebook 01 recorded in the course's own run, and the curves that it wrote."""
    return recorded["01"], json.loads((course[1] / "orpo" / "curves.json").read_text())


def test_the_loss_by_hand_is_the_trainers(trained):
    figures, _ = trained
    assert figures["loss_by_hand"] == pytest.approx(figures["loss_by_module"], abs=1e-5)
    assert figures["loss_on_batch"] == pytest.approx(figures["loss_by_trainer"], abs=1e-5)
    assert figures["largest_difference"] < 1e-5 and figures["loss_by_trainer"] > 0.2


def test_all_runs_start_at_one_point_and_were_measured_on_the_way(trained):
    figures, curves = trained
    assert list(curves["runs"]) == RUNS and len(curves["steps"]) >= 8
    for name, run in curves["runs"].items():
        for side in ("chosen", "rejected"):
            assert len(run[side]) == len(curves["steps"]) and run[side][0] == figures[f"start_{side}"], name
            assert max(run[side]) < 0
    assert figures["orpo_10_rejected"] == curves["runs"]["ORPO 1.0"]["rejected"][-1]


def test_likelihood_alone_lifts_the_rejected_answers_too(trained):
    run = trained[1]["runs"]["SFT"]
    assert run["chosen"][-1] > run["chosen"][0] + 0.1
    assert run["rejected"][-1] > run["rejected"][0] + 0.1


def test_the_odds_let_them_fall_the_further_the_larger_beta_is(trained):
    runs = trained[1]["runs"]
    last = [runs[name]["rejected"][-1] for name in RUNS]
    for larger, smaller in zip(last, last[1:], strict=False):
        assert smaller < larger - 0.02, last
    assert last[-1] < runs["ORPO 1.0"]["rejected"][0] - 0.05 and last[0] - last[-1] > 0.3
    for name in RUNS:
        assert runs[name]["chosen"][-1] > runs[name]["chosen"][0] + 0.1, "the likelihood is in every loss"


def test_what_agrees_with_the_paper_is_computed(trained):
    figures, curves = trained
    rows = orpo_figures.paper_rows(curves["runs"])
    assert rows == curves["paper"] and len(rows) == len(orpo_figures.PAPER) == figures["statements"]
    assert figures["statements_that_hold"] == sum(row["agrees"] == "yes" for row in rows)
    judged = {(row["run"], row["it says"]): row["agrees"] for row in rows}
    for run, statement in [
        ("SFT", "rejected rises too"),
        ("ORPO 1.0", "rejected falls"),
        ("ORPO 1.0", "the gap is widest"),
    ]:
        assert judged[run, statement] == "yes"
    assert judged["ORPO 1.0", "chosen falls"] == "no", "the notebook's text speaks of it"
