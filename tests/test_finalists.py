"""Finalists of a search: its near-ties are compared, and what is left out is told."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from last_stages import STUDY, begin, outcome_of, search, through
from plans import make_plan, make_record, run_trial

from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.request import FinalRequest
from orchestrator.record.finalists import choose_finalists, finalists_of, near_ties, num_left_out
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import TrialRecord
from orchestrator.report.final import caveats, is_current, read_final_results
from orchestrator.report.tested import stage_lines
from orchestrator.run.final_stage import plan_stage, sentences, study_sentences
from orchestrator.support.uncertainty import standard_error


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[SweepPlan, TrialRecord]:
    plan = make_plan(num_trials=1)
    return plan, run_trial(make_record(plan, tmp_path_factory.mktemp("one")), STUDY)


def trials_with(trial: TrialRecord, accuracies) -> list[TrialRecord]:
    return [
        replace(trial, number=n, val_accuracy=a, config={**trial.config, "lr": 0.1 + n})
        for n, a in enumerate(accuracies)
    ]


@settings(deadline=None)
@given(
    right=st.lists(st.integers(0, 200), min_size=1, max_size=25),
    num_finalists=st.integers(1, 5),
    more=st.integers(0, 10),
)
def test_near_ties_are_compared_up_to_a_bound_and_others_by_rank(one, right, num_finalists, more):
    plan, trial = one
    task, trials = plan.tasks[0], trials_with(trial, [n / 200 for n in right])
    protocol = FinalProtocol(num_finalists=num_finalists, most_finalists=num_finalists + more)
    found, near = finalists_of(trials, task, protocol), near_ties(trials, task)
    best = max(right) / 200
    within = [t for t in trials if best - (t.val_accuracy or 0) <= standard_error(best, 200) + 1e-9]
    assert {t.number for t in near} == {t.number for t in within}
    wanted = min(max(num_finalists, min(len(near), num_finalists + more)), len(trials))
    assert found == choose_finalists(trials, wanted)
    assert num_left_out(trials, task, found) == len(
        {t.number for t in near} - {t.number for t in found}
    )
    fixed = finalists_of(trials, task, FinalProtocol(num_finalists=num_finalists))
    assert fixed == choose_finalists(trials, num_finalists)


def test_near_ties_that_are_left_out_are_told_before_and_after(tmp_path):
    searched = search(tmp_path, (0.5, 0.70, 0.69, 0.69, 0.68, 0.68))
    plan, record, _ = searched

    def stage(**asked):
        finals = FinalRecord(*searched)
        (found,) = plan_stage(plan, record, finals, asked, Path("s"), unfinished=False, again=False)
        return found

    three = stage()
    assert (len(three.finalists), three.num_left_out) == (3, 2)
    text = " ".join(" ".join(sentences([three])).split())
    assert "left out 2 more trials of 1 study within one standard error of the best" in text
    assert "--most-finalists 5 compares them, too" in text
    assert ", 2 near-ties left out" in study_sentences([three])[0]
    assert (len(stage(most_finalists=4).finalists), stage(most_finalists=4).num_left_out) == (4, 1)
    all_of_them = stage(most_finalists=9)
    assert (len(all_of_them.finalists), all_of_them.num_left_out) == (5, 0)
    assert "left out" not in " ".join(sentences([all_of_them]))

    begin(searched)
    begun = " ".join(" ".join(sentences([stage()])).split())
    assert "left out 2 more trials of 1 study within one standard error of the best" in begun
    assert "--most-finalists" not in begun, "it would be refused"
    again = " ".join(" ".join(sentences([replace(three, round=2)])).split())
    assert "left out 2 more" in again and "--most-finalists" not in again
    outcome = outcome_of(searched)
    assert (outcome.num_left_out, outcome.num_finalists, outcome.most_finalists) == (2, 3, 0)
    (tmp_path / "final.json").write_text(json.dumps([asdict(outcome)]))
    (result,) = read_final_results(tmp_path)
    assert any("2 more trials of the search within one standard" in c for c in caveats(result))
    assert not any("--most-finalists" in c for c in caveats(result)), "test numbers are known"
    lines = stage_lines([result], plan, record.trials)
    assert lines == ["last stage: 0 of 1 study tested"]
    run_trial(record, STUDY, accuracy=0.695)
    trials = record.trials(STUDY)
    assert not is_current(result, trials, plan.tasks[0])


def test_a_new_near_tie_makes_finalists_that_were_near_ties_out_of_date(tmp_path):
    searched = search(tmp_path, (0.70, 0.69, 0.69))
    plan, record, _ = searched
    begin(searched, num_finalists=1, most_finalists=4)
    outcome = outcome_of(searched)
    (tmp_path / "final.json").write_text(json.dumps([asdict(outcome)]))
    (result,) = read_final_results(tmp_path)
    assert len(result.finalists) == 3
    assert is_current(result, record.trials(STUDY), plan.tasks[0])
    run_trial(record, STUDY, accuracy=0.4)
    assert is_current(result, record.trials(STUDY), plan.tasks[0])
    run_trial(record, STUDY, accuracy=0.68)
    assert not is_current(result, record.trials(STUDY), plan.tasks[0])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"finalists": 3, "most_finalists": 2},
            "--most-finalists must be at least --finalists, 3, found 2",
        ),
        ({"most_finalists": -1}, "--most-finalists must be at least --finalists, 1, found -1"),
    ],
)
def test_what_no_stage_can_do_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        FinalRequest(**asked).check()


def test_most_finalists_are_held_against_the_finalists_that_the_stage_was_begun_with(tmp_path):
    asked = FinalRequest(most_finalists=2)
    asked.check()
    searched = search(tmp_path, (0.70, 0.69, 0.69))
    plan, record, _ = searched

    def stage():
        finals = FinalRecord(*searched)
        return plan_stage(
            plan, record, finals, asked.protocol, Path("s"), unfinished=False, again=False
        )

    with pytest.raises(ValueError, match="must be at least --finalists, 3, found 2"):
        stage()
    begin(searched, num_finalists=1, most_finalists=2)
    (found,) = stage()
    assert (len(found.finalists), found.begins) == (2, False)


def test_a_stage_without_these_options_is_stored_as_before(tmp_path):
    searched = search(tmp_path, (0.5, 0.70, 0.58))
    begin(searched)
    through(searched, lambda *_: 0.5)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as database:
        told = dict(database.execute("SELECT key, value_json FROM study_user_attributes"))
        names = [name for (name,) in database.execute("SELECT study_name FROM studies")]
    assert json.loads(told["protocol"]).keys() == {
        "num_finalists", "num_folds", "seeds", "data_fingerprint"
    }  # fmt: skip
    assert json.loads(told["search"]).keys() == {"finished", "planned"}
    assert not any("repeat" in name for name in names)
    assert outcome_of(searched).num_left == 0
