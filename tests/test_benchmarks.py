"""The benchmarks run, and measure what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import accuracy
import control
import fp8
import launch
import pytest
import reading
import stacked
import step
import torch
import trial
from fp8_layers import GRADIENTS, LAYERS, Fp8Linear, Fp8Mlp, layer_of, swap
from suites import write_suite
from timm.layers.mlp import Mlp

from methods import VPT, tune
from orchestrator.training.numerics import Engine


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


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.float() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(("gradients", "most"), [("e4m3", 0.045), ("e5m2", 0.07)])
def test_a_layer_in_8_bits_is_near_the_exact_one(gradients, most):
    torch.manual_seed(0)
    linear = torch.nn.Linear(192, 64).requires_grad_(False)
    inputs = torch.randn(3, 20, 192, requires_grad=True)
    arriving = torch.randn(3, 20, 64) * torch.logspace(-6, 6, 20)[:, None]
    expected = linear(inputs)
    (gradient,) = torch.autograd.grad(expected, inputs, arriving)
    layer = Fp8Linear(linear.bfloat16(), GRADIENTS[gradients])
    found = layer(inputs)
    (own,) = torch.autograd.grad(found, inputs, arriving.bfloat16())
    assert found.dtype == torch.bfloat16 and own.dtype == inputs.dtype
    # In bfloat16 it would be 0.003.
    assert 0.01 < relative(found, expected) < 0.045
    # Rows of gradients differ by 12 orders of magnitude, and each has its own scale.
    assert max(relative(own[:, i], gradient[:, i]) for i in range(20)) < most


def test_an_mlp_in_8_bits_is_near_the_exact_one():
    torch.manual_seed(0)
    mlp = Mlp(192, 768).requires_grad_(False)
    inputs, arriving = torch.randn(3, 20, 192, requires_grad=True), torch.randn(3, 20, 192)
    expected = mlp(inputs)
    (gradient,) = torch.autograd.grad(expected, inputs, arriving)
    mlp.bfloat16()
    e4m3 = GRADIENTS["e4m3"]
    found = Fp8Mlp(Fp8Linear(mlp.fc1, e4m3), Fp8Linear(mlp.fc2, e4m3))(inputs)
    (own,) = torch.autograd.grad(found, inputs, arriving.bfloat16())
    assert 0.01 < relative(found, expected) < 0.065 and 0.01 < relative(own, gradient) < 0.065


@pytest.mark.parametrize("layers", [("qkv",), ("fc1", "proj"), ("qkv", "fc1", "fc2")])
def test_only_the_named_layers_are_swapped_and_the_walk_goes_through_them(layers):
    vit = step.backbone("tiny")
    engine = Engine(precision="bf16")
    engine.cast_frozen(vit)
    before = dict(vit.named_parameters())
    swap(vit, layers)
    swapped = {name for name, module in vit.named_modules() if isinstance(module, Fp8Linear)}
    places = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    assert swapped == {f"blocks.{i}.{places[name]}" for i in range(3) for name in layers}
    after = dict(vit.named_parameters())
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    passed = set()
    model = tune(vit, VPT(num_tokens=3), num_classes=5)
    for name, module in model.vit.named_modules():
        if isinstance(module, Fp8Linear | Fp8Mlp):
            module.register_forward_hook(lambda *_, name=name: passed.add(name.split(".")[1]))
    with engine.computing("cpu"):
        logits = model(torch.randn(2, 3, 32, 32))
    logits.sum().backward()
    # In the last block the walk takes queries of the class token from the weight itself.
    assert passed == ({"0", "1"} if layers == ("qkv",) else {"0", "1", "2"})
    assert all(p.grad is not None for p in model.tuning.parameters())


def test_what_cannot_be_in_8_bits_is_refused():
    vit = step.backbone("tiny")
    with pytest.raises(ValueError, match=r"no such layers: \['head'\]; known: qkv, proj"):
        swap(vit, ["qkv", "head"])
    layer_of(vit.blocks[1], "fc1").requires_grad_(True)
    with pytest.raises(ValueError, match="is trained"):
        swap(vit, ["fc1"])
    with pytest.raises(ValueError, match="multiples of 16"):
        Fp8Linear(torch.nn.Linear(8, 16).requires_grad_(False), GRADIENTS["e4m3"])


def test_the_fp8_benchmark_tells_times_errors_and_what_failed(tmp_path, capsys):
    path = tmp_path / "fp8.json"
    options = ["--device", "cpu", "--backbone", "tiny", "--batch", "2", "--tokens", "3"]
    options += ["--rounds", "1", "--steps", "1", "--json", str(path)]
    report = fp8.main([*options, "--layers", "qkv,fc1,fc2", "fc3"])
    assert [row.layers for row in report.steps] == ["", "qkv,fc1,fc2"]
    bf16, eight = report.steps
    assert 0 < 3 * bf16.gradient_error < eight.gradient_error < 0.15
    assert {row.piece.split()[0] for row in report.pieces} >= set(LAYERS)
    assert report.failures == [
        "fc3, eager: ValueError: no such layers: ['fc3']; known: qkv, proj, fc1, fc2"
    ]
    assert json.loads(path.read_text())["failures"] == report.failures
    assert "| qkv,fc1,fc2 | eager |" in capsys.readouterr().out
    report = fp8.main([*options, "--seconds", "-1"])
    assert not report.steps and "kernels: not tried" in report.failures[0]


def test_the_fp8_benchmark_pairs_accuracies_by_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    suite = write_suite(tmp_path / "suite", ("colours",))
    options = ["--task", "colours", "--backbone", "vit_quickstart", "--device", "cpu"]
    report = fp8.main(["--accuracy", str(suite), *options, "--epochs", "1", "--seeds", "2"])
    assert [row.seed for row in report.seeds] == [0, 1] and not report.failures
    assert all(row.bf16 is not None and row.fp8 is not None for row in report.seeds)
    assert "fp8 - bf16 over 2 pairs of 2" in capsys.readouterr().out


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
