"""MLflow shows what the record says, costs the caller nothing, and its faults stay its own."""

import contextlib
import http.server
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import curve_to, facts_of, make_plan, make_record, run_trial, wait_for

from orchestrator.plan.plan import SweepPlan, save_plan
from orchestrator.record.record import FINISHED, Record, TrialRecord
from orchestrator.support.addresses import redacted
from orchestrator.tracking.backend import TrackingError
from orchestrator.tracking.content import millis
from orchestrator.tracking.mlflow.server import server_command, server_environment
from orchestrator.tracking.mlflow.store import open_client
from orchestrator.tracking.reconcile import reconcile
from orchestrator.tracking.tracker import MAX_UNSENT_ROWS, Tracker
from orchestrator.tracking.trackers import tracking_uri

ENDINGS = ("complete", "pruned", "complete", "failed", "running")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """A migrated MLflow database; making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_store, tmp_path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[SweepPlan, Record]:
    """Two studies with trials in every state. Only read."""
    plan = make_plan(tasks=("caltech101", "eurosat"), num_trials=len(ENDINGS))
    record = make_record(plan, tmp_path_factory.mktemp("swept"))
    for number, ending in enumerate(ENDINGS):
        for study in plan.studies:
            run_trial(record, study.name, ending=ending, accuracy=0.5 + 0.1 * number)
    return plan, record


@pytest.fixture(scope="module")
def rebuilt_store(swept, empty_store, tmp_path_factory) -> Path:
    """What `reconcile` made of the swept record."""
    path = tmp_path_factory.mktemp("rebuilt") / "mlflow.db"
    shutil.copy(empty_store, path)
    reconcile(*swept, f"sqlite:///{path}", best_files=no_files)
    return path


@pytest.fixture
def rebuilt(rebuilt_store, tmp_path) -> str:
    shutil.copy(rebuilt_store, tmp_path / "rebuilt.db")
    return f"sqlite:///{tmp_path / 'rebuilt.db'}"


def no_files(study: str) -> list[Path]:
    return []


def client(uri: str) -> Any:
    return open_client(uri)


def replay(tracker: Tracker, trials: list[TrialRecord]) -> None:
    """Tell a tracker of trials as the schedule would have."""
    for trial in trials:
        tracker.trial_started(replace(trial, state="running", finished=None, curve=(), facts={}))
    ended = [trial for trial in trials if trial.state in FINISHED]
    for trial in sorted(ended, key=lambda trial: str(trial.finished)):
        for start in range(0, len(trial.curve), 2):
            rows = list(trial.curve[start : start + 2])
            tracker.trial_epochs(trial.study, trial.number, rows)
        tracker.trial_ended(trial)


def runs_of(uri: str) -> list[Any]:
    mlflow = client(uri)
    ids = [e.experiment_id for e in mlflow.search_experiments(view_type=3)]
    return [run for run in mlflow.search_runs(ids, run_view_type=3) if "kind" in run.data.tags]


def run_of(uri: str, study: str, number: int | None = None) -> Any:
    (found,) = [
        run
        for run in runs_of(uri)
        if run.data.tags["orchestrator.study"] == study
        and run.data.tags.get("orchestrator.trial") == (None if number is None else str(number))
    ]
    return found


def history(uri: str, run: Any, name: str) -> list[tuple[int, int, float]]:
    found = client(uri).get_metric_history(run.info.run_id, name)
    return sorted((metric.step, metric.timestamp, metric.value) for metric in found)


def shown(uri: str) -> dict[tuple[str, str], dict[str, Any]]:
    """All that MLflow shows of a sweep, without the ids it drew."""
    runs = runs_of(uri)
    studies = {run.info.run_id: run.data.tags["orchestrator.study"] for run in runs}
    found = {}
    for run in runs:
        tags = dict(run.data.tags)
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = studies[tags["mlflow.parentRunId"]]
        key = (tags["orchestrator.study"], tags.get("orchestrator.trial", ""))
        assert key not in found, f"two runs of {key}"
        found[key] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "stage": run.info.lifecycle_stage,
            "times": (run.info.start_time, run.info.end_time),
            "tags": tags,
            "params": run.data.params,
            "metrics": {name: history(uri, run, name) for name in run.data.metrics},
        }
    return found


def test_every_study_and_trial_has_its_run(swept, uri):
    plan, record = swept
    tracker = Tracker(plan, uri)
    replay(tracker, record.all_trials())
    assert tracker.close(60)
    found = shown(uri)
    assert len(found) == len(plan.studies) * (1 + len(ENDINGS))
    statuses = [found["eurosat.vpt_deep", str(n)]["status"] for n in range(len(ENDINGS))]
    assert statuses == ["FINISHED", "KILLED", "FINISHED", "FAILED", "RUNNING"]
    states = [found["eurosat.vpt_deep", str(n)]["tags"]["state"] for n in range(len(ENDINGS))]
    assert states == list(ENDINGS)
    assert client(uri).get_experiment_by_name(plan.name) is not None


def test_the_run_of_a_trial_holds_all_there_is_to_know(swept, rebuilt):
    _, record = swept
    trial = record.trial("caltech101.vpt_deep", 2)
    run = shown(rebuilt)["caltech101.vpt_deep", "2"]
    assert run["name"] == "caltech101 · vpt_deep · #2"
    assert run["times"] == (millis(trial.started), millis(trial.finished))
    assert [value for _, _, value in run["metrics"]["val_accuracy"]] == [
        row["val_accuracy"] for row in trial.curve
    ]
    assert [step for step, _, _ in run["metrics"]["val_loss"]] == [1, 2, 3, 4]
    assert {"train_loss", "scaled_lr", "wall_seconds", "images_per_second"} <= run["metrics"].keys()
    assert run["metrics"]["num_tuned_parameters"][0][2] == 18_250
    config = {name: str(value) for name, value in trial.config.items()}
    assert config.items() <= run["params"].items()
    assert run["params"]["seed"] == str(trial.seed)
    assert run["params"]["batch_size"], "defaults are shown too"
    expected = {
        "task": "caltech101",
        "space": "vpt_deep",
        "method": "vpt",
        "group": "natural",
        "backbone": "vit_tiny_patch16_224",
        "data_fingerprint": "fingerprint-of-caltech101",
        "versions": "python 3.11.9, torch 2.15.0",
        "device": "cpu",
        "mlflow.parentRunId": "caltech101.vpt_deep",
    }
    assert expected.items() <= run["tags"].items()
    failed = shown(rebuilt)["caltech101.vpt_deep", "3"]
    assert failed["tags"]["failure"] == "loss is nan at epoch 2, step 1 of 7, lr 9.81"


def test_the_run_of_a_study_shows_its_best_and_its_counts(swept, rebuilt):
    _, record = swept
    run = shown(rebuilt)["caltech101.vpt_deep", ""]
    best = record.best("caltech101.vpt_deep")
    assert best is not None and best.number == 2
    assert run["tags"]["best.trial"] == "2"
    assert run["tags"]["best.num_tokens"] == str(best.config["num_tokens"])
    counts = {k: v for k, v in run["tags"].items() if k.startswith("num_")}
    assert counts == {
        "num_trials": "5",
        "num_complete": "2",
        "num_pruned": "1",
        "num_failed": "1",
        "num_running": "1",
    }
    assert (run["status"], run["tags"]["state"]) == ("RUNNING", "running")
    accuracies = [value for _, _, value in run["metrics"]["best_val_accuracy"]]
    first, third = (record.trial("caltech101.vpt_deep", n).val_accuracy for n in (0, 2))
    assert accuracies == [first, first, third, third]


def test_a_study_is_finished_when_its_last_planned_trial_is(tmp_path, uri):
    plan = make_plan(num_trials=2)
    record = make_record(plan, tmp_path)
    last = [run_trial(record, "caltech101.vpt_deep") for _ in range(2)][-1]
    reconcile(plan, record, uri, best_files=no_files)
    run = run_of(uri, "caltech101.vpt_deep")
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "complete")
    assert run.info.end_time == millis(last.finished)


def test_what_is_tracked_live_equals_what_is_rebuilt(swept, uri, rebuilt):
    plan, record = swept
    tracker = Tracker(plan, uri)
    replay(tracker, record.all_trials())
    assert tracker.close(60)
    done = reconcile(plan, record, uri, best_files=no_files)
    assert (done.created, done.updated) == (0, 0), "the tracker had sent everything"
    assert shown(uri) == shown(rebuilt)


def _lose_run(mlflow: Any, run_id: str) -> None:
    mlflow.delete_run(run_id)
    mlflow._tracking_client.store._hard_delete_run(run_id)


DAMAGES: dict[str, Callable[[Any, str], object]] = {
    "nothing": lambda mlflow, run: None,
    "status": lambda mlflow, run: mlflow.update_run(run, "RUNNING"),
    "state tag": lambda mlflow, run: mlflow.set_tag(run, "state", "running"),
    "parent tag": lambda mlflow, run: mlflow.delete_tag(run, "mlflow.parentRunId"),
    "run": _lose_run,
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
    _lose_run(client(rebuilt), run_of(rebuilt, "eurosat.vpt_deep").info.run_id)
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


def killed_after(rows: list[dict[str, float]], record: Record, uri: str) -> tuple[str, int]:
    """A driver told MLflow of these epochs of a new trial, and ended without recording it."""
    study = record.plan.studies[0].name
    number = record.ask(study).number
    tracker = Tracker(record.plan, uri)
    tracker.trial_started(record.trial(study, number))
    tracker.trial_epochs(study, number, rows)
    assert tracker.close(30)
    return study, number


def test_the_run_of_a_study_warns_and_its_description_keeps_up_until_a_person_edits_it(
    tmp_path, uri
):
    plan = make_plan(num_trials=3)
    plan = replace(plan, tasks=(replace(plan.tasks[0], val_majority=150),))
    record, study = make_record(plan, tmp_path), plan.studies[0].name

    def after(accuracy: float) -> dict[str, str]:
        run_trial(record, study, accuracy=accuracy)
        reconcile(plan, record, uri, best_files=no_files)
        return run_of(uri, study).data.tags

    told = "75.0 % is what always answering the most frequent class gives (150 of 200"
    tags = after(0.75)
    assert tags["val_majority_share"] == "0.75"
    assert tags["caution"].startswith(told) and told in tags["mlflow.note.content"]
    tags = after(0.9)
    assert "caution" not in tags and told not in tags["mlflow.note.content"]
    run_id = run_of(uri, study).info.run_id
    client(uri).set_tag(run_id, "mlflow.note.content", "mine")
    assert after(0.95)["mlflow.note.content"] == "mine"


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


def test_tags_of_an_earlier_best_trial_do_not_stay(tmp_path, uri):
    plan = make_plan(num_trials=9)
    record = make_record(plan, tmp_path)
    accuracy, seen = 0.1, set()
    while seen != {"adamw", "sgd"}:  # momentum is searched with sgd only
        trial = run_trial(record, "caltech101.vpt_deep", accuracy=accuracy)
        reconcile(plan, record, uri, best_files=no_files)
        tags = run_of(uri, "caltech101.vpt_deep").data.tags
        assert ("best.momentum" in tags) == (trial.config["optimizer"] == "sgd")
        seen.add(trial.config["optimizer"])
        accuracy += 0.05


def test_files_of_the_best_trial_become_artifacts_once(swept, uri, tmp_path):
    plan, record = swept
    files = [tmp_path / "eurosat.yaml", tmp_path / "eurosat.safetensors"]
    for file in files:
        file.write_text(f"first {file.suffix}")

    def best_files(study: str) -> list[Path]:
        return files if study == "eurosat.vpt_deep" else []

    reconcile(plan, record, uri, best_files=best_files)
    root = Path(run_of(uri, "eurosat.vpt_deep").info.artifact_uri.removeprefix("file://"))
    assert root.is_relative_to(tmp_path / "mlartifacts")
    assert (root / "search_space.yaml").read_text().startswith("method: vpt")
    assert (root / "best" / "eurosat.safetensors").read_text() == "first .safetensors"
    written = (root / "best" / "eurosat.yaml").stat().st_ctime_ns
    reconcile(plan, record, uri, best_files=best_files)
    assert (root / "best" / "eurosat.yaml").stat().st_ctime_ns == written
    files[0].write_text("second")
    reconcile(plan, record, uri, best_files=best_files)
    assert (root / "best" / "eurosat.yaml").read_text() == "second"


def test_the_run_of_a_study_carries_its_figures(tmp_path, uri):
    plan = make_plan(num_trials=3)
    record = make_record(plan, tmp_path)
    study = "caltech101.vpt_deep"
    for ending in ("complete", "pruned"):
        run_trial(record, study, ending=ending)
    reconcile(plan, record, uri, best_files=no_files)
    page = Path(run_of(uri, study).info.artifact_uri.removeprefix("file://")) / "study.html"
    assert "1 complete, 1 pruned" in page.read_text()
    assert page.read_text().count("<svg") >= 4
    written = page.stat().st_ctime_ns
    reconcile(plan, record, uri, best_files=no_files)
    assert page.stat().st_ctime_ns == written
    run_trial(record, study)
    reconcile(plan, record, uri, best_files=no_files)
    assert "2 complete, 1 pruned" in page.read_text()


def test_a_long_failure_is_cut_and_still_tracked(tmp_path, uri):
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    number = record.ask("caltech101.vpt_deep").number
    record.fail("caltech101.vpt_deep", number, reason="x" * 100_000)
    reconcile(plan, record, uri, best_files=no_files)
    failure = run_of(uri, "caltech101.vpt_deep", number).data.tags["failure"]
    assert failure.startswith("xxx") and failure.endswith("…")


def test_a_curve_longer_than_a_request_arrives_whole(tmp_path, uri):
    epochs = 1000
    plan = make_plan(num_trials=1, epochs=epochs)
    record = make_record(plan, tmp_path)
    number = record.ask("caltech101.vpt_deep").number
    rows = curve_to(0.9, epochs)
    record.complete("caltech101.vpt_deep", number, curve=rows, facts=facts_of(rows))
    reconcile(plan, record, uri, best_files=no_files)
    metrics = shown(uri)["caltech101.vpt_deep", str(number)]["metrics"]
    for name in ("val_accuracy", "val_loss", "train_loss", "scaled_lr"):
        assert [step for step, _, _ in metrics[name]] == list(range(1, epochs + 1))


class _Faulty(http.server.BaseHTTPRequestHandler):
    """A server that is up and of no use."""

    seconds = 0.0

    def do_POST(self) -> None:
        time.sleep(self.seconds)
        with contextlib.suppress(OSError):
            self.send_error(500, "out of order")

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        """Silent."""


class _Hanging(_Faulty):
    seconds = 10.0


@contextlib.contextmanager
def faulty_server(kind: str) -> Iterator[str]:
    if kind == "nobody listens":
        yield f"http://someone:hunter2@127.0.0.1:{free_port()}"
        return
    handler = _Hanging if kind == "takes 10 seconds" else _Faulty
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://someone:hunter2@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("kind", ["nobody listens", "answers 500", "takes 10 seconds"])
def test_a_useless_server_costs_the_caller_nothing(swept, caplog, kind):
    plan, record = swept
    trials = record.all_trials()
    open_client("sqlite://")  # importing MLflow is not what is measured here
    with faulty_server(kind) as address, caplog.at_level(logging.INFO):
        tracker = Tracker(plan, address)
        began = time.perf_counter()
        for _ in range(20):
            replay(tracker, trials)
            time.sleep(0.05)  # its thread meets the fault meanwhile
        assert time.perf_counter() - began < 20 * 0.05 + 1
        began = time.perf_counter()
        assert not tracker.close(timeout_seconds=2)
        assert time.perf_counter() - began < 3
    warnings = [r for r in caplog.records if r.name == "orchestrator.tracking.tracker"]
    assert len(warnings) == (0 if kind == "takes 10 seconds" else 1)
    assert "hunter2" not in caplog.text


def test_memory_is_bounded_while_mlflow_is_away(swept):
    plan, record = swept
    trial = record.trial("caltech101.vpt_deep", 0)
    tracker = Tracker(plan, f"http://127.0.0.1:{free_port()}")
    running = replace(trial, number=10**6, state="running", finished=None)
    tracker.trial_started(running)
    curve = curve_to(0.5, 1000)
    for number in range(100):
        tracker.trial_ended(replace(trial, number=number, curve=curve))
    kept = list(tracker._unsent.values())
    assert sum(len(entry.curve) for entry in kept) <= MAX_UNSENT_ROWS
    assert kept[-1].trial.number == 99, "the newest are kept"
    assert kept[0].trial.number == 10**6, "and those that run"
    tracker.close(5)


def test_reconcile_says_that_mlflow_is_away_without_the_password(swept):
    plan, record = swept
    address = f"http://someone:hunter2@127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match="cannot be written to") as caught:
        reconcile(plan, record, address, best_files=no_files)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__, "a traceback would show the address in full"


@given(
    user=st.text("abcXYZ019-_%", min_size=1),
    password=st.text("abcXYZ019-_%@:!$", min_size=8),
    scheme=st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql"]),
)
def test_no_password_survives_in_a_message(user, password, scheme):
    address = f"{scheme}://{user}:{password}@db.example.org:5432/mlflow"
    message = redacted(f"request to {address} failed ({address}/api)")
    assert password not in message
    assert "db.example.org:5432/mlflow" in message


def test_tokens_in_the_query_of_an_address_are_hidden_too():
    hidden = redacted("postgresql://db/mlflow?user=me&password=hunter2&sslmode=require")
    assert hidden == "postgresql://db/mlflow?user=me&password=***&sslmode=require"


def test_the_tracking_uri_is_the_users_or_the_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example.org")
    assert tracking_uri(tmp_path) == "http://tracking.example.org"


@pytest.mark.parametrize("value", ["./mlruns", "file:///tmp/mlruns", "ftp://me:hunter2@host"])
def test_a_tracking_uri_of_no_use_is_refused_at_once(tmp_path, monkeypatch, value):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI=.*expected") as caught:
        tracking_uri(tmp_path)
    assert "hunter2" not in str(caught.value)


QUIET = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.WARNING)
sys.path.insert(0, sys.argv[1])
from plans import make_plan, make_record, run_trial
from orchestrator.tracking.trackers import tracking_uri
from orchestrator.tracking.reconcile import reconcile
from orchestrator.tracking.tracker import Tracker
assert "mlflow" not in sys.modules, "importing it takes seconds: the thread does that"
folder = Path(sys.argv[2])
plan = make_plan(num_trials=1)
record = make_record(plan, folder)
tracker = Tracker(plan, tracking_uri(folder))
tracker.trial_ended(run_trial(record, "caltech101.vpt_deep"))
assert tracker.close(120)
reconcile(plan, record, tracking_uri(folder), best_files=lambda study: [])
import os
assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
"""


def test_a_fresh_store_is_made_without_a_word(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")},
        timeout=300,
    )
    noise = [line for line in done.stderr.splitlines() if "optuna" not in line.lower()]
    assert (done.returncode, done.stdout, noise) == (0, "", [])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(store: str, folder: Path, port: int) -> Iterator[Callable[[], None]]:
    """A real server; yields a function that kills it hard."""
    process = subprocess.Popen(
        server_command(store, str(folder / "served"), "127.0.0.1", port),
        env=server_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    try:
        yield kill
    finally:
        kill()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.mlflow
def test_a_server_killed_in_the_middle_ends_up_complete(swept, uri, rebuilt, tmp_path, caplog):
    plan, record = swept
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    trials = record.all_trials()
    half = len(trials) // 2
    file = tmp_path / "eurosat.yaml"
    file.write_text("best")
    with caplog.at_level(logging.INFO, logger="orchestrator.tracking.tracker"):
        with mlflow_server(uri, tmp_path, port) as kill:
            # It takes seconds to start: the tracker is there first and must bear it.
            tracker = Tracker(plan, address)
            replay(tracker, trials[:half])
            wait_for(lambda: answers(address))
            wait_for(lambda: len(runs_of(uri)) == len(plan.studies) + half)
            kill()
            replay(tracker, trials[half:])
            wait_for(lambda: "cannot be written to" in caplog.text)
        with mlflow_server(uri, tmp_path, port):
            wait_for(lambda: answers(address))
            assert tracker.close(60)
            reconcile(plan, record, address, best_files=lambda study: [file])
            best = client(address).list_artifacts(
                run_of(address, "eurosat.vpt_deep").info.run_id, "best"
            )
            assert [entry.path for entry in best] == ["best/eurosat.yaml"]
            found, expected = shown(address), shown(rebuilt)
    for study in plan.studies:
        del found[study.name, ""]["tags"]["orchestrator.best_files"]
    assert found == expected


@pytest.mark.mlflow
def test_ui_serves_the_sweep_on_this_machine_and_stops_whole(swept, uri, tmp_path):
    import psutil

    plan, record = swept
    save_plan(plan, tmp_path)
    reconcile(plan, record, uri, best_files=no_files)
    port = free_port()
    shell = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "ui", str(tmp_path), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"},
    )
    try:
        assert shell.stdout is not None
        lines = [shell.stdout.readline(), shell.stdout.readline()]
        assert f"http://127.0.0.1:{port}/#/experiments/1/runs" in lines[1], lines
        assert len(runs_of(f"http://127.0.0.1:{port}")) == 2 * (1 + len(ENDINGS))
        family = psutil.Process(shell.pid).children(recursive=True)
        assert family
        listening = {
            c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"
        }
        assert listening == {"127.0.0.1"}
        shell.send_signal(signal.SIGTERM)
        assert shell.wait(30) == 0
        assert not [process for process in family if process.is_running()]
    finally:
        shell.kill()
        shell.wait()


def test_ui_says_what_is_wrong_before_it_starts_anything(tmp_path, empty_store, monkeypatch):
    from orchestrator.cli.ui import ui

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="is not a sweep folder"):
        ui(tmp_path)
    save_plan(make_plan(), tmp_path)
    with pytest.raises(ValueError, match=r"has no mlflow.db yet; `orchestrator resume"):
        ui(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} .* is taken"):
            ui(tmp_path, port=port, host="127.0.0.1")
