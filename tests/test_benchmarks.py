"""The benchmarks run, and measure what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import accuracy
import control
import launch
import pytest
import reading
import stacked
import step
import trial
from suites import write_suite


def test_the_step_benchmark_writes_a_row_per_case(tmp_path, capsys):
    path = tmp_path / "step.json"
    rows = step.main(["--quick", "--json", str(path)])
    assert [row.case for row in rows] == ["floor", *step.METHOD_CASES]
    by_case = {row.case: row for row in rows}
    deep = by_case["vpt_deep"]
    assert deep.forward_gflop < deep.plain_forward_gflop
    assert by_case["spt_deep"].step_gflop == deep.step_gflop
    assert all(row.images_per_second > 0 and row.times_floor > 0 for row in rows)
    assert len(json.loads(path.read_text())["rows"]) == len(rows)
    assert "| vpt_deep | 4 |" in capsys.readouterr().out


def test_trials_stacked_in_one_pass_get_their_own_gradients():
    rows = stacked.main(["--quick"])
    assert [row.trials for row in rows] == [1, 3]
    assert all(row.difference < 1e-5 and row.gain > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_trial_benchmark_tells_cold_warm_and_changed_tasks_apart(
    precision, tmp_path, monkeypatch
):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    suite = write_suite(tmp_path / "suite")
    options = ["--backbone", "vit_quickstart", "--epochs", "3", "--eval-every", "2"]
    rows = trial.main([str(suite), *options, "--precision", precision])
    probe, prompts = ["cold", "warm", "change", "warm", "found", "found"], 2 * ["change", "warm"]
    assert [row.state for row in rows] == probe + prompts
    assert {row.method for row in rows} == {"linear", "vpt_deep"}
    assert all(row.step > 0 and row.evaluate > 0 and row.val_accuracy <= 1 for row in rows)
    assert all(row.prompts > 0 and row.log > 0 for row in rows)
    assert "features cls pretrained_frozen computed once" in rows[0].frozen_work
    assert "blocks 0 computed once" in rows[-1].frozen_work
    cold, warm = rows[:2]
    for part in ("backbone", "data", "frozen"):
        assert getattr(warm, part) < getattr(cold, part), part
    assert rows[4].frozen < cold.frozen


def test_the_accuracy_benchmark_pairs_both_precisions(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    suite = write_suite(tmp_path / "suite")
    options = ["--backbone", "vit_quickstart", "--epochs", "2", "--seeds", "2", "--configs", "1"]
    rows = accuracy.main([str(suite), *options, "--method", "linear", "vpt_deep"])
    assert len({(row.task, row.method) for row in rows}) == len(rows) == 4
    for row in rows:
        assert len(row.fp32) == len(row.bf16) == 2
    assert "bf16 - fp32 over 8 pairs" in capsys.readouterr().out


def test_the_launch_benchmark_times_the_eager_step(capsys):
    options = ["--device", "cpu", "--backbone", "tiny", "--batch", "2", "--precision", "fp32"]
    (row,) = launch.main([*options, "--tokens", "3", "--ways", "eager", "--rounds", "2"])
    assert (row.gain, row.difference) == (1.0, 0.0)
    assert "| eager |" in capsys.readouterr().out


def test_the_benchmark_of_processes_side_by_side_times_one_and_two(tmp_path):
    # In a process of its own, since it forks: this one has computed with several threads.
    program = Path(__file__).parents[1] / "benchmarks/neighbours.py"
    path = tmp_path / "side.json"
    words = "--device cpu --backbone tiny --batch 2 --precision fp32 --tokens 3 --ways eager"
    options = f"{words} --services none --processes 1 2 --seconds 0.2 --json {path}".split()
    done = subprocess.run(
        [sys.executable, program, *options],
        env={**os.environ, "PYTHONPATH": str(program.parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [(row["processes"], row["steps_per_second"] > 0) for row in rows] == [
        (1, True),
        (2, True),
    ]
    assert rows[0]["gain"] == 1.0 and "| none | eager | 2 |" in done.stdout


def test_the_reading_benchmark_reads_the_same_both_ways(capsys):
    rows = reading.main(["--trials", "95", "--epochs", "20", "--rounds", "1"])
    assert [(row.way, row.trials) for row in rows] == [("ours", 95), ("optuna", 95)]
    assert all(row.median > 0 for row in rows) and "times ours" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_the_control_benchmark_runs_the_stock_and_a_resumed_sweep(tmp_path, capsys):
    path = tmp_path / "control.json"
    options = ["--trials", "3", "--before", "190", "--stock-trials", "1", "--slots", "1"]
    stock, ours = control.main([*options, "--epochs", "20", "--json", str(path)])
    assert (stock.case.system, stock.num_reports) == ("stock", 20)
    # Each is the third of its study, so that a rung with two values before it may stop it.
    assert 3 * control.FIRST_RUNG_EPOCHS <= ours.num_reports <= 3 * 20
    assert 0 < ours.busy <= 1 and ours.turnaround > 0 and ours.wall > 0
    assert [row["reports_per_second"] > 0 for row in json.loads(path.read_text())["rows"]]
    assert "| ours | 3 after 190 | 1 |" in capsys.readouterr().out
