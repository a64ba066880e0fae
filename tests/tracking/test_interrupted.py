"""Trials and sweeps that were interrupted go on in their runs, with each point once."""

import pytest
from plans import curve_to, facts_of, make_plan, make_record, run_trial, wait_for
from shown_runs import (
    client,
    no_files,
    run_of,
    runs_of,
    shown,
)

from orchestrator.record.record import Record
from orchestrator.tracking.reconcile import reconcile
from orchestrator.tracking.tracker import Tracker


def killed_after(rows: list[dict[str, float]], record: Record, uri: str) -> tuple[str, int]:
    """A driver told MLflow of these epochs of a new trial, and ended without recording it."""
    study = record.plan.studies[0].name
    number = record.ask(study).number
    tracker = Tracker(record.plan, uri)
    tracker.trial_started(record.trial(study, number))
    tracker.trial_epochs(study, number, rows)
    assert tracker.close(30)
    return study, number


@pytest.mark.parametrize("seconds", [0.01, 9.0])
def test_an_interrupted_trial_goes_on_in_its_run_with_each_point_once(tmp_path, uri, seconds):
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    study, number = killed_after(curve_to(0.5, 4)[:3], record, uri)
    # The trial runs again, faster or slower, from its first epoch.
    again = [{**row, "train_seconds": seconds} for row in curve_to(0.5, 4)]
    second = Tracker(plan, uri, earlier=record.all_trials())
    second.trial_started(record.trial(study, number))
    second.trial_epochs(study, number, again)
    record.complete(study, number, curve=again, facts=facts_of(again))
    second.trial_ended(record.trial(study, number))
    assert second.close(30)
    run_id = run_of(uri, study, number).info.run_id
    for name in ("val_accuracy", "train_loss", "scaled_lr"):
        in_order_of_time = client(uri).get_metric_history(run_id, name)
        assert [metric.step for metric in in_order_of_time] == [1, 2, 3, 4]
    assert reconcile(plan, record, uri, best_files=no_files).unchanged == 1


def test_of_an_epoch_that_was_trained_again_to_another_accuracy_the_last_is_shown(tmp_path, uri):
    """As a GPU may, which does not always add in the same order."""
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    study, number = killed_after(curve_to(0.9, 4), record, uri)
    again = [{**row, "train_seconds": 0.01} for row in curve_to(0.5, 4)]
    record.complete(study, number, curve=again, facts=facts_of(again))
    for _ in range(2):
        reconcile(plan, record, uri, best_files=no_files)
        assert run_of(uri, study, number).data.metrics["val_accuracy"] == 0.5


def test_a_resumed_sweep_counts_the_trials_before_it(tmp_path, uri):
    plan = make_plan(num_trials=3)
    record = make_record(plan, tmp_path)
    run_trial(record, "caltech101.vpt_deep", accuracy=0.9)
    reconcile(plan, record, uri, best_files=no_files)
    tracker = Tracker(plan, uri, earlier=record.all_trials())
    tracker.trial_ended(run_trial(record, "caltech101.vpt_deep", accuracy=0.5))
    assert tracker.close(60)
    tags = run_of(uri, "caltech101.vpt_deep").data.tags
    assert (tags["num_complete"], tags["best.trial"]) == ("2", "0")


@pytest.mark.parametrize("sent_before", [True, False])
@pytest.mark.parametrize("again_from", [1, 3])
def test_epochs_of_a_worker_that_died_are_not_doubled(tmp_path, uri, again_from, sent_before):
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    study, rows = "caltech101.vpt_deep", curve_to(0.5, 4)
    number = record.ask(study).number
    tracker = Tracker(plan, uri)
    tracker.trial_started(record.trial(study, number))
    tracker.trial_epochs(study, number, rows[:3])
    if sent_before:
        wait_for(lambda: len(runs_of(uri)) == 2 and run_of(uri, study, number).data.metrics)
    again = [{**row, "train_seconds": 9.0} for row in rows[again_from - 1 :]]
    tracker.trial_epochs(study, number, again)
    wait_for(lambda: any(run.data.metrics.get("val_accuracy") == 0.5 for run in runs_of(uri)))
    rows = rows[: again_from - 1] + again
    record.complete(study, number, curve=rows, facts=facts_of(rows))
    tracker.trial_ended(record.trial(study, number))
    assert tracker.close(60)
    steps = [step for step, _, _ in shown(uri)[study, str(number)]["metrics"]["val_accuracy"]]
    assert steps == [1, 2, 3, 4]
