"""What the runs of a sweep show: all that the record knows, live as rebuilt."""

from dataclasses import replace
from pathlib import Path

from plans import curve_to, facts_of, make_plan, make_record, run_trial
from shown_runs import (
    ENDINGS,
    client,
    no_files,
    replay,
    run_of,
    shown,
)

from orchestrator.tracking.content import millis
from orchestrator.tracking.reconcile import reconcile
from orchestrator.tracking.tracker import Tracker


def test_every_study_and_trial_has_its_run(swept, uri):
    plan, record = swept
    tracker = Tracker(plan, uri)
    replay(tracker, record.all_trials())
    assert tracker.close(60)
    found = shown(uri)
    assert len(found) == len(plan.studies) * (1 + len(ENDINGS))
    statuses = [found["eurosat.vpt_deep", str(n)]["status"] for n in range(len(ENDINGS))]
    assert statuses == ["FINISHED", "FINISHED", "FINISHED", "FAILED", "RUNNING"]
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
    drawn = {name: str(trial.config[name]) for name in ("lr", "num_tokens", "optimizer")}
    assert drawn.items() <= run["params"].items()
    assert run["params"]["seed"] == str(trial.seed)
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
