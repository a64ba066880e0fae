"""A configuration that falls apart for one fold or seed is told of."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import make_plan, make_record, run_trial

from orchestrator.record.final_outcome import StudyOutcome
from orchestrator.record.finalists import Finalist, choose_winner
from orchestrator.record.record import TrialRecord
from orchestrator.report.cautions import collapsed_sentence
from orchestrator.support.collapsed import collapsed, collapsed_text


def test_a_run_far_below_the_others_is_named():
    svhn = {42: 0.659, 44: 0.804, 82: 0.818, 100: 0.815}
    assert collapsed(svhn) == {42: 0.659}
    assert collapsed_text(svhn, "seeds") == "collapsed for 1 of 4 seeds (42: 65.9, median 81.0)"
    assert collapsed({1: 0.1, 2: 0.9}) == {}


@given(st.floats(0, 1), st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=8))
def test_runs_that_differ_by_a_few_points_are_not(middle: float, apart: list[float]):
    scores = {number: min(1.0, max(0.0, middle + one)) for number, one in enumerate(apart)}
    assert collapsed(scores) == {}


@given(st.dictionaries(st.integers(0, 9), st.floats(0, 1), min_size=3))
def test_never_half_of_the_runs(scores: dict[int, float]):
    assert len(collapsed(scores)) <= len(scores) / 2


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> TrialRecord:
    plan = make_plan(num_trials=1)
    return run_trial(make_record(plan, tmp_path_factory.mktemp("one")), plan.studies[0].name)


def finalist(trial: TrialRecord, number: int, folds: Mapping[int, float]) -> Finalist:
    return Finalist(
        trial=replace(trial, number=number),
        state="complete",
        fold_accuracies=folds,
        fold_facts={},
        fold_curves={},
        failure=None,
        started=None,
        finished=None,
    )


def test_the_choice_among_finalists_says_which_of_them_fell_on_a_fold(trial: TrialRecord):
    sound = finalist(trial, 3, {1: 0.80, 2: 0.81, 3: 0.82})
    fell = finalist(trial, 7, {1: 0.12, 2: 0.90, 3: 0.91})
    chosen = choose_winner([fell, sound], 3, 600)
    assert chosen is not None and chosen.number == 3
    assert chosen.why.endswith("; #7 collapsed for 1 of 3 folds (1: 12.0, median 90.0)")


@pytest.mark.parametrize("last", [0.12, 0.93])
def test_seeds_of_the_winner_that_fell_are_told(last: float):
    outcome = StudyOutcome(
        task="svhn",
        space="vpt_deep",
        winner=0,
        why="",
        cross_validation=None,
        test_accuracies={42: 0.94, 44: 0.95, 82: last},
        failed_seeds={},
        num_left=0,
        num_finished_trials=1,
        num_planned_trials=1,
        bundle_seed=42,
    )
    sentence = collapsed_sentence(outcome)
    assert (sentence is not None) == (last == 0.12)
    if sentence:
        assert sentence.startswith("the winner collapsed for 1 of 3 seeds (82: 12.0, median 94.0)")
