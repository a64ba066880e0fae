"""What is missing or wrong in MLflow is mended; what a person did there stays."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from plans import curve_to, facts_of, make_plan, make_record, run_trial, wait_for
from shown_runs import (
    ENDINGS,
    client,
    lose_run,
    no_files,
    replay,
    run_of,
    runs_of,
    shown,
)

from orchestrator.tracking.reconcile import reconcile
from orchestrator.tracking.tracker import Tracker

DAMAGES: dict[str, Callable[[Any, str], object]] = {
    "nothing": lambda mlflow, run: None,
    "status": lambda mlflow, run: mlflow.update_run(run, "RUNNING"),
    "state tag": lambda mlflow, run: mlflow.set_tag(run, "state", "running"),
    "parent tag": lambda mlflow, run: mlflow.delete_tag(run, "mlflow.parentRunId"),
    "run": lose_run,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_reconcile_mends_what_is_missing_or_wrong_and_nothing_else(swept, rebuilt, damage):
    plan, record = swept
    before = shown(rebuilt)
    run_id = run_of(rebuilt, "eurosat.vpt_deep", 1).info.run_id
    DAMAGES[damage](client(rebuilt), run_id)
    done = reconcile(plan, record, rebuilt, best_files=no_files)
    assert shown(rebuilt) == before
    assert done.created + done.updated == (0 if damage == "nothing" else 1)
    assert reconcile(plan, record, rebuilt, best_files=no_files).unchanged == 2 * len(ENDINGS)


def test_a_lost_parent_is_made_again_and_its_trials_come_home(swept, rebuilt):
    plan, record = swept
    before = shown(rebuilt)
    lose_run(client(rebuilt), run_of(rebuilt, "eurosat.vpt_deep").info.run_id)
    reconcile(plan, record, rebuilt, best_files=no_files)
    after = shown(rebuilt)
    assert after == before


def test_a_second_run_of_a_trial_goes_to_the_trash(swept, rebuilt):
    plan, record = swept
    before = shown(rebuilt)
    run = run_of(rebuilt, "eurosat.vpt_deep", 1)
    client(rebuilt).create_run(run.info.experiment_id, tags=run.data.tags)
    assert reconcile(plan, record, rebuilt, best_files=no_files).doubled == 1
    active = [run for run in runs_of(rebuilt) if run.info.lifecycle_stage == "active"]
    assert len(active) == len(before)
    assert reconcile(plan, record, rebuilt, best_files=no_files).doubled == 0
    assert run_of_active(active, "eurosat.vpt_deep", 1) == run.info.run_id


def run_of_active(runs: list[Any], study: str, number: int) -> str:
    (found,) = [
        run.info.run_id
        for run in runs
        if run.data.tags["orchestrator.study"] == study
        and run.data.tags.get("orchestrator.trial") == str(number)
    ]
    return found


def test_a_run_that_a_person_deleted_stays_deleted(swept, rebuilt):
    plan, record = swept
    client(rebuilt).delete_run(run_of(rebuilt, "eurosat.vpt_deep", 1).info.run_id)
    tracker = Tracker(plan, rebuilt)
    replay(tracker, record.all_trials())
    assert tracker.close(60)
    assert reconcile(plan, record, rebuilt, best_files=no_files).deleted == 1
    assert run_of(rebuilt, "eurosat.vpt_deep", 1).info.lifecycle_stage == "deleted"


def test_a_run_deleted_while_its_trial_runs_disturbs_no_other(tmp_path, uri):
    plan = make_plan(num_trials=2)
    record = make_record(plan, tmp_path)
    tracker = Tracker(plan, uri)
    first, second = (
        record.trial("caltech101.vpt_deep", record.ask("caltech101.vpt_deep").number)
        for _ in range(2)
    )
    tracker.trial_started(first)
    tracker.trial_started(second)
    wait_for(lambda: len(runs_of(uri)) == 3)
    client(uri).delete_run(run_of(uri, "caltech101.vpt_deep", 0).info.run_id)
    for trial in (first, second):
        rows = curve_to(0.5, 4)
        tracker.trial_epochs(trial.study, trial.number, rows)
        record.complete(trial.study, trial.number, curve=rows, facts=facts_of(rows))
        tracker.trial_ended(record.trial(trial.study, trial.number))
    assert tracker.close(60)
    assert run_of(uri, "caltech101.vpt_deep", 0).info.lifecycle_stage == "deleted"
    assert run_of(uri, "caltech101.vpt_deep", 1).info.status == "FINISHED"


def test_a_renamed_experiment_is_still_the_sweeps(swept, rebuilt):
    plan, record = swept
    mlflow = client(rebuilt)
    mlflow.rename_experiment(
        mlflow.get_experiment_by_name(plan.name).experiment_id, "my favourite sweep"
    )
    assert reconcile(plan, record, rebuilt, best_files=no_files).unchanged == 2 * len(ENDINGS)


def test_a_deleted_experiment_is_restored_with_its_runs(swept, rebuilt, caplog):
    plan, record = swept
    before, mlflow = shown(rebuilt), client(rebuilt)
    mlflow.delete_experiment(mlflow.get_experiment_by_name(plan.name).experiment_id)
    reconcile(plan, record, rebuilt, best_files=no_files)
    assert shown(rebuilt) == before
    assert "restored" in caplog.text


def test_whatever_a_person_does_in_the_pages_the_sweep_goes_on(tmp_path, uri):
    plan = make_plan(num_trials=4)
    record = make_record(plan, tmp_path)
    study = "caltech101.vpt_deep"
    for ending in ("complete", "complete", "running"):
        run_trial(record, study, ending=ending)
    reconcile(plan, record, uri, best_files=no_files)
    mlflow, runs = client(uri), {number: run_of(uri, study, number) for number in (None, 0, 1, 2)}
    mlflow.update_run(runs[1].info.run_id, name="the one I like")
    mlflow.update_run(runs[None].info.run_id, name="prompts")
    mlflow.delete_run(runs[0].info.run_id)
    mlflow.delete_run(runs[2].info.run_id)
    experiment = mlflow.get_experiment_by_name(plan.name).experiment_id
    mlflow.rename_experiment(experiment, "mine")
    mlflow.delete_experiment(experiment)
    resumed = Tracker(plan, uri, earlier=record.all_trials())
    rows = curve_to(0.5, 4)
    record.complete(study, 2, curve=rows, facts=facts_of(rows))
    replay(resumed, [record.trial(study, 2), run_trial(record, study)])
    assert resumed.close(60)
    found = reconcile(plan, record, uri, best_files=no_files)
    assert found.unchanged + found.deleted == 4
    assert mlflow.get_experiment(experiment).lifecycle_stage == "active"
    assert run_of(uri, study, 1).info.run_name == "the one I like"
    assert run_of(uri, study).info.run_name == "prompts"
    assert run_of(uri, study).data.tags["num_complete"] == "4"
    assert run_of(uri, study, 3).info.status == "FINISHED"


def test_sweeps_of_one_name_do_not_share_an_experiment(swept, rebuilt):
    plan, record = swept
    other = replace(plan, created="2026-12-24T18:00:00+00:00")
    reconcile(other, record, rebuilt, best_files=no_files)
    names = {e.name for e in client(rebuilt).search_experiments()} - {"Default"}
    assert names == {plan.name, f"{plan.name} ({other.created})"}
