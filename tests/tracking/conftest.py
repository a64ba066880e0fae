"""A swept record and what MLflow shows of it, made once for all tests of this folder."""

import shutil
from pathlib import Path

import pytest
from plans import make_plan, make_record, run_trial
from shown_runs import (
    ENDINGS,
    client,
    no_files,
)

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import Record
from orchestrator.tracking.reconcile import reconcile


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A migrated MLflow database; making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_store, tmp_path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def swept(tmp_path_factory) -> tuple[SweepPlan, Record]:
    """Two studies with trials in every state. Only read."""
    plan = make_plan(tasks=("caltech101", "eurosat"), num_trials=len(ENDINGS))
    record = make_record(plan, tmp_path_factory.mktemp("swept"))
    for number, ending in enumerate(ENDINGS):
        for study in plan.studies:
            run_trial(record, study.name, ending=ending, accuracy=0.5 + 0.1 * number)
    return plan, record


@pytest.fixture(scope="session")
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
