"""The main job, through the command that users type: real Ray, real SQLite, real MLflow."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import mlflow
import optuna
import pyarrow.parquet as pq
import pytest
from command_line import COMMAND, environment, run
from suites import write_suite

pytestmark = [pytest.mark.ray, pytest.mark.slow]

METHODS = ("--method", "linear", "--method", "vpt_deep")
SMALL = ("--backbone", "vit_quickstart", *METHODS, "--trials", "4", "--epochs", "8")


def states_in_storage(folder: Path) -> Counter[str]:
    url = f"sqlite:///{folder / 'studies.db'}"
    found: Counter[str] = Counter()
    for name in optuna.get_all_study_names(url):
        study = optuna.load_study(study_name=name, storage=url)
        numbers = [trial.number for trial in study.trials]
        assert numbers == list(range(len(numbers)))
        found.update(f"{name.split('/')[1]} {trial.state.name}" for trial in study.trials)
    return found


def states_in_mlflow(folder: Path) -> Counter[str]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(folder.name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    owners = Counter(run.data.tags["mlflow.runName"] for run in children)
    assert set(owners.values()) <= {1}, "a trial has two runs"
    assert all(run.info.status != "RUNNING" for run in runs)
    return Counter(run.data.tags["state"] for run in children)


def states_in_table(folder: Path) -> Counter[str]:
    return Counter(pq.read_table(folder / "results.parquet")["state"].to_pylist())


def totals(states: Counter[str]) -> Counter[str]:
    """Storage's states by name only, in our words."""
    words = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    found: Counter[str] = Counter()
    for key, count in states.items():
        found[words[key.split()[-1]]] += count
    return found


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def suite(tmp: Path) -> Path:
    return write_suite(tmp / "suite")


@pytest.fixture(scope="module")
def swept(tmp: Path, suite: Path) -> tuple[Path, str]:
    """A finished sweep of two tasks and two methods, and what the command printed."""
    folder = tmp / "first"
    # A relative path, as the default is: workers run in folders of their own.
    out = os.path.relpath(folder)
    return folder, run("sweep", suite, *SMALL, "--out", out, tmp=tmp).replace(out, str(folder))


def test_every_planned_trial_ends_once_everywhere(swept):
    folder, _ = swept
    stored = states_in_storage(folder)
    assert sum(stored.values()) == 16
    assert totals(stored) == states_in_table(folder) == states_in_mlflow(folder)
    assert totals(stored)["failed"] == totals(stored)["running"] == 0


def test_the_optuna_pruner_stops_trials_and_says_so(swept):
    folder, _ = swept
    table = pq.read_table(folder / "results.parquet").to_pylist()
    pruned = [row for row in table if row["state"] == "pruned"]
    assert pruned, "successive halving stopped nothing"
    assert all(row["epochs_run"] < 8 for row in pruned)
    assert all(row["epochs_run"] == 8 for row in table if row["state"] == "complete")


def test_the_output_says_what_was_found_and_what_comes_next(swept):
    folder, output = swept
    for expected in ("4 studies, 16 trials", "colours_a", "vpt_deep", f"orchestrator ui {folder}"):
        assert expected in output, output


def test_the_best_of_each_task_can_be_loaded_trained_again_and_used(swept, suite, tmp):
    folder, _ = swept
    bundle = folder / "best" / "colours_a.yaml"
    again = json.loads(run("train", bundle, "--json", tmp=tmp))
    assert again["val_accuracy"] == again["recorded"]
    image = suite / "colours_a" / "images" / "test" / "000000.png"
    (prediction,) = json.loads(run("predict", bundle, image, "--json", tmp=tmp))
    assert 0 <= prediction["label"] < 3
    assert 0 < prediction["probability"] <= 1


def test_export_writes_the_same_files_elsewhere(swept, tmp):
    folder, _ = swept
    run("export", folder, "--to", tmp / "elsewhere", tmp=tmp)
    for name in ("colours_a.yaml", "colours_a.safetensors", "colours_b.yaml"):
        assert (tmp / "elsewhere" / name).read_bytes() == (folder / "best" / name).read_bytes()


def test_status_speaks_json(swept, tmp):
    folder, _ = swept
    rows = json.loads(run("status", folder, "--json", tmp=tmp))
    assert len(rows) == 4
    assert sum(row["complete"] + row["pruned"] for row in rows) == 16


@pytest.mark.usefixtures("swept")
def test_a_second_sweep_decodes_nothing_and_decides_the_same(suite, tmp):
    again = tmp / "again"
    output = run("sweep", suite, *SMALL, "--out", again, "--slots", 1, tmp=tmp)
    assert "all decoded before" in output
    assert " decoded\n" not in output
    third = tmp / "third"
    run("sweep", suite, *SMALL, "--out", third, "--slots", 1, tmp=tmp)
    columns = ["study", "number", "state", "val_accuracy", "config", "epochs_run"]
    rows = [
        pq.read_table(path / "results.parquet", columns=columns).to_pylist()
        for path in (again, third)
    ]
    assert rows[0] == rows[1]


def _kill_midway(arguments: list[object], folder: Path, tmp: Path, kill: signal.Signals) -> int:
    """Start the command, and end it when some trials are finished and others run."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment(tmp),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (folder / "studies.db").exists():
                try:
                    states = totals(states_in_storage(folder))
                except Exception:  # the storage is just being made
                    states = Counter()
                if states["complete"] + states["pruned"] >= 3 and states["running"]:
                    process.send_signal(kill)
                    return process.wait(timeout=60)
            time.sleep(0.05)
        raise AssertionError(f"the sweep ended by itself with {process.poll()}")
    finally:
        process.kill()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_goes_on_without_losing_or_doubling_a_trial(kill, suite, tmp):
    folder = tmp / f"stopped-{kill.name}"
    trials = ("--trials", "6", "--epochs", "40")
    arguments = ["sweep", suite, *SMALL, *trials, "--out", folder]
    code = _kill_midway(arguments, folder, tmp, kill)
    assert code == (-signal.SIGKILL if kill is signal.SIGKILL else 130)
    assert totals(states_in_storage(folder))["running"] > 0
    run("resume", folder, tmp=tmp)
    stored = states_in_storage(folder)
    assert sum(stored.values()) == 24
    assert totals(stored)["running"] == totals(stored)["failed"] == 0
    assert totals(stored) == states_in_table(folder) == states_in_mlflow(folder)
