"""What a sweep decided and found, for comparison with a run that nothing disturbed."""

from collections import Counter
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from orchestrator.plan.plan import load_plan
from orchestrator.record.record import open_record
from orchestrator.record.replay import replayed
from orchestrator.run.doctor import Examination, examine
from orchestrator.tracking.content import STUDY_TAG, TRIAL_TAG
from orchestrator.tracking.mlflow.store import MLFLOW_FILE

Story = dict[str, Any]
"""By trial: configuration, state, value, accuracy after every epoch, and its rungs."""


def story_of(folder: Path, storage: str | None = None) -> Story:
    plan = load_plan(folder)
    record = open_record(plan, folder, storage)
    story: Story = {}
    for study in plan.studies:
        stored = record.optuna_study(study.name).get_trials()
        for trial, frozen in zip(record.trials(study.name), stored, strict=True):
            story[f"{study.name} #{trial.number}"] = {
                "config": dict(trial.config),
                "state": trial.state,
                "value": trial.val_accuracy,
                "failure": trial.failure,
                "curve": [(row["epoch"], row["val_accuracy"]) for row in trial.curve],
                "rungs": {k: v for k, v in frozen.system_attrs.items() if k.startswith("complet")},
                "reported": frozen.intermediate_values,
            }
    return story


def examine_folder(folder: Path, uri: str | None = None) -> Examination:
    plan = load_plan(folder)
    uri = uri or f"sqlite:///{folder / MLFLOW_FILE}"
    return examine(plan, open_record(plan, folder), folder, uri)


def assert_whole(folder: Path, uri: str | None = None) -> Counter[str]:
    """Every invariant holds, nothing is left to do, all is derived again; how many were checked."""
    examination = examine_folder(folder, uri)
    assert not examination.findings, "\n".join(f.text for f in examination.findings)
    for study in replayed(open_record(load_plan(folder), folder)):
        assert (study.differences, study.not_replayed) == ((), None)
    _assert_every_epoch_is_in_mlflow_once(folder, uri)
    return examination.checked


def _assert_every_epoch_is_in_mlflow_once(folder: Path, uri: str | None) -> None:
    plan = load_plan(folder)
    record = open_record(plan, folder)
    uri = uri or f"sqlite:///{folder / MLFLOW_FILE}"
    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    for run in client.search_runs(experiments, max_results=1000):
        if number := run.data.tags.get(TRIAL_TAG):
            trial = record.trial(run.data.tags[STUDY_TAG], int(number))
            history = client.get_metric_history(run.info.run_id, "val_accuracy")
            shown = [(metric.step, metric.value) for metric in history]
            assert shown == [(row["epoch"], row["val_accuracy"]) for row in trial.curve]


def assert_nowhere(secret: str, folder: Path) -> None:
    """In no file of a folder, whatever its format."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    for path in files:
        assert secret.encode() not in path.read_bytes(), path
