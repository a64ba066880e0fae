"""The main job, through the command that users type: real Ray, real SQLite, real MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

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


def test_what_its_slots_decided_side_by_side_is_derived_again(swept, tmp):
    folder, _ = swept
    assert "16 suggestions and" in run("replay", folder, tmp=tmp)


@pytest.fixture(scope="module")
def again(swept, suite, tmp) -> tuple[Path, str]:
    """A second sweep of the same, with one slot, and what the command printed."""
    folder = tmp / "again"
    return folder, run("sweep", suite, *SMALL, "--out", folder, "--slots", 1, tmp=tmp)


def decided(folder: Path) -> list[dict[str, Any]]:
    """Configuration, state and end of every trial, and its accuracy after every epoch."""
    columns = ["study", "number", "state", "val_accuracy", "config", "epochs_run"]
    rows = pq.read_table(folder / "results.parquet", columns=[*columns, "curve"]).to_pylist()
    return [{**row, "curve": [e["val_accuracy"] for e in row["curve"]]} for row in rows]


def test_a_second_sweep_decodes_nothing_and_decides_the_same(again, suite, tmp):
    folder, output = again
    assert "all decoded before" in output
    assert " decoded\n" not in output
    third = tmp / "third"
    run("sweep", suite, *SMALL, "--out", third, "--slots", 1, tmp=tmp)
    assert decided(folder) == decided(third)


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # whoever imports it fails
from orchestrator.cli import main
main()
"""


def test_the_local_engine_decides_as_one_slot_of_ray_and_imports_no_ray(again, suite, tmp):
    folder = tmp / "local"
    local = ("--out", folder, "--engine", "local")
    run("sweep", suite, *SMALL, *local, tmp=tmp, command=[sys.executable, "-c", WITHOUT_RAY])
    found = decided(folder)
    assert found == decided(again[0])
    assert {row["state"] for row in found} == {"complete", "pruned"}, "the pruner was asked"
    assert totals(states_in_storage(folder)) == states_in_table(folder) == states_in_mlflow(folder)


AT_A_BREAKPOINT = """
from orchestrator.cli import main
from orchestrator.training.trial import Trial

made = Trial._model

def make(trial, pixels):
    breakpoint()
    return made(trial, pixels)

Trial._model = make
main()
"""


def test_a_breakpoint_in_a_trial_stops_there_and_leaving_it_costs_no_trial(suite, tmp):
    folder = tmp / "debugged"
    tiny = ("--backbone", "vit_quickstart", "--method", "linear", "--trials", 1, "--epochs", 2)
    arguments = ["sweep", suite, "--tasks", "colours_a", *tiny, "--out", folder]
    command = [sys.executable, "-c", AT_A_BREAKPOINT]
    left = run(*arguments, "--engine", "local", tmp=tmp, code=130, command=command, typed="q\n")
    assert "(Pdb)" in left and "the debugger was left" in left
    assert totals(states_in_storage(folder)) == {"running": 1}
    typed = "p trial.config.study, len(pixels)\nc\n"
    resume = ("resume", folder, "--engine", "local")
    gone_on = run(*resume, tmp=tmp, command=command, typed=typed)
    assert "(Pdb) ('colours_a.linear', " in gone_on
    assert totals(states_in_storage(folder)) == {"complete": 1}


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
                    return process.wait(timeout=300)
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
