"""Trials and sweeps on a GPU, with what comes with the package; on a CPU the same is rehearsed."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from command_line import run
from gpu import most_at_once
from PIL import Image
from written_bundles import write_bundle

from orchestrator.bundle.bundle import load_bundle
from orchestrator.bundle.prompted_model import PromptedModel
from orchestrator.plan.plan import load_plan
from orchestrator.quickstart.tasks import write_quickstart
from orchestrator.training.numerics import Engine

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
on_gpu = pytest.param("cuda", marks=[pytest.mark.gpu, needs_a_gpu])
on_cpu = pytest.param("cpu", marks=pytest.mark.slow)
on_cpu_with_ray = pytest.param("cpu", marks=[pytest.mark.thorough, pytest.mark.ray])

NUM_TRIALS = 8
NUM_EPOCHS = {"cpu": 8, "cuda": 40}
"""So many that a trial takes longer than workers start after each other."""
SHARES = {
    "cpu": ("--slots", 2, "--gpus-per-trial", 0),
    "cuda": ("--slots", 4, "--gpus-per-trial", 0.25, "--cpus-per-trial", 1),
}
"""How a sweep on each device is told to run trials side by side."""
LAUNCH = {"cpu": (), "cuda": ("--launch", "graph")}
"""Without compilation: this is about what is shared, and takes long enough."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quickstart")
    write_quickstart(root)
    return root / "digits"


def assert_answers_alike(one: PromptedModel, other: PromptedModel, task: Path) -> None:
    """The same labels for the images of val, but where a model can hardly tell two apart."""
    paths = sorted((task / "images" / "val").glob("*.png"))
    images = [Image.open(path) for path in paths]
    logits, others = one.logits(images), other.logits(images)
    torch.testing.assert_close(logits, others, rtol=1e-2, atol=0.1)
    first, second = others.topk(2).values.unbind(dim=1)
    is_clear = first - second > 0.2  # twice what a logit may differ by, with TF32 on one side
    assert is_clear.float().mean() > 0.5
    labels, expected = ([p.label for p in model.predict(paths)] for model in (one, other))
    assert torch.equal(torch.tensor(labels)[is_clear], torch.tensor(expected)[is_clear])


@pytest.mark.parametrize(("method", "precision"), [("vpt", "fp32"), ("spt", "bf16")])
@pytest.mark.parametrize("device", [on_cpu, on_gpu])
def test_the_bundle_of_a_trial_predicts_the_same_labels_on_a_cpu(
    device: str, method: str, precision: str, digits: Path, tmp_path: Path
):
    engine = Engine(precision=precision)
    path, trial = write_bundle(method, digits, tmp_path, device=device, engine=engine)
    assert trial.model is not None
    assert {p.device.type for p in trial.model.parameters()} == {device}
    assert_answers_alike(load_bundle(path), load_bundle(path, device=device), digits)


@pytest.mark.parametrize("device", [on_cpu, on_gpu])
def test_two_trials_of_one_seed_learn_the_same(device: str, digits: Path, tmp_path: Path):
    engine = Engine(precision="bf16", launch="graph", deterministic=True)
    learnt = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        path, _ = write_bundle("vpt", digits, folder, device=device, engine=engine)
        learnt.append(path.with_suffix(".safetensors").read_bytes())
    assert learnt[0] == learnt[1]


@pytest.fixture(scope="module", params=[on_cpu_with_ray, on_gpu])
def swept(
    request: pytest.FixtureRequest, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, str]:
    """The device of a sweep through Ray, its folder, and what the command printed."""
    tmp = tmp_path_factory.mktemp("sweep")
    length = ("--trials", NUM_TRIALS, "--epochs", NUM_EPOCHS[request.param])
    what = ("--tasks", "digits", "--backbone", "vit_quickstart", "--method", "vpt_deep")
    where = (*SHARES[request.param], *LAUNCH[request.param], "--out", tmp / "swept")
    output = run("sweep", digits.parent, *what, *length, *where, tmp=tmp, cwd=tmp)
    return request.param, tmp / "swept", output


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "results.parquet").to_pylist()


def test_trials_share_one_device_and_weak_ones_are_pruned(swept: tuple[str, Path, str]):
    device, folder, output = swept
    rows = rows_of(folder)
    assert len(rows) == NUM_TRIALS
    assert {row["state"] for row in rows} == {"complete", "pruned"}, output
    assert most_at_once(rows) >= 2, output
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name()
    assert {row["device"] for row in rows} == {name}
    if device == "cuda":
        assert "4 slots of 1 CPU thread and 0.25 GPU" in output


def test_the_precision_of_a_sweep_is_measured_on_its_gpu(swept: tuple[str, Path, str]):
    device, folder, output = swept
    planned = load_plan(folder).engine.precision
    assert {row["precision"] for row in rows_of(folder)} == {planned}
    (said,) = [line for line in output.splitlines() if line.startswith("precision ")]
    assert said.startswith(f"precision {planned}")
    if device == "cuda":
        assert "bf16 graph" in said and "x the speed of fp32 graph" in said


def test_what_a_sweep_exports_predicts_the_same_labels_on_a_cpu(
    swept: tuple[str, Path, str], digits: Path
):
    device, folder, _ = swept
    bundle = folder / "best" / "digits.yaml"
    assert_answers_alike(load_bundle(bundle), load_bundle(bundle, device=device), digits)


def test_the_last_stage_in_this_process_tests_the_winner_once(
    swept: tuple[str, Path, str], digits: Path, tmp_path: Path
):
    device, folder, _ = swept
    short = ("--finalists", 1, "--folds", 2, "--seeds", "1", "--engine", "local")
    gpus = 1 if device == "cuda" else 0
    output = run("finalize", folder, *short, "--gpus-per-trial", gpus, tmp=tmp_path, cwd=tmp_path)
    assert "the test split was opened once" in output
    bundle = folder / "final" / "digits.yaml"
    assert_answers_alike(load_bundle(bundle), load_bundle(bundle, device=device), digits)
