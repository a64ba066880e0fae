"""A bundle works where nothing of a sweep is installed, says what it is, and cannot be swapped."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from suites import write_task

from methods import load_backbone
from orchestrator.backbone import BackbonePlan
from orchestrator.bundle import Bundle, load_bundle, save_bundle, sha256_of
from orchestrator.config import TrialConfig, build
from orchestrator.data.vtab import read_vtab_task
from orchestrator.engine import Engine
from orchestrator.plan import PrunerPlan
from orchestrator.residents import Residents
from orchestrator.trial import Trial, TrialContext

CONFIGS = {
    "linear": {},
    "vpt": {"num_tokens": 3, "deep": True},
    "spt": {"num_tokens": 3, "init": "kmeans"},
    "gatevpt": {"num_tokens": 3},
    "lspt": {"num_tokens": 3, "hidden": 8},
    "apt": {},
    "lora": {},
    "bias": {},
}
SHORT = {"epochs": 2, "warmup_epochs": 0}


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory) -> Path:
    return write_task(tmp_path_factory.mktemp("suite") / "colours")


def write_bundle(method: str, task_folder: Path, folder: Path) -> tuple[Path, Trial]:
    """Train a configuration for two epochs and save it, as a sweep would."""
    task = read_vtab_task(task_folder)
    found = load_backbone("vit_quickstart")
    backbone = BackbonePlan(
        name=found.name,
        weights=None,
        weights_sha256=found.weights_sha256,
        image_size=found.image_size,
        num_parameters=found.num_parameters,
        resize="squash",
        interpolation=found.interpolation,
        crop_fraction=1.0,
        mean=found.mean,
        std=found.std,
    )
    context = TrialContext(
        backbone=backbone,
        tasks={task.name: task.for_search()},
        fingerprints={task.name: "f"},
        pruner=PrunerPlan(name="none", first_rung_epochs=1),
        cache_folder=str(folder / "cache"),
        device="cpu",
        cpu_threads=1,
        engine=Engine(),
    )
    config = TrialConfig(
        study=f"{task.name}.{method}",
        task=task.name,
        number=0,
        method=method,
        config={**CONFIGS[method], **SHORT},
        seed=1,
    )
    trial = Trial(config, context, Residents(2**28))
    rows = list(trial.epochs())
    tensors = folder / "trained.safetensors"
    trial.save(tensors)
    _, recipe = build(method, config.config, source="test")
    assert trial.model is not None
    bundle = Bundle(
        task=task.name,
        suite=str(task_folder.parent),
        data_root=None,
        data_seed=0,
        class_names=task.class_names,
        data_fingerprint="f",
        backbone=backbone,
        trial=config,
        recipe={**asdict(recipe), "readout": trial.model.recipe.readout},
        val_accuracy=rows[-1]["val_accuracy"],
        num_tuned_parameters=trial.model.num_tuned_parameters,
        device="cpu",
        cpu_threads=1,
        tensors_sha256=sha256_of(tensors),
        sweep="test",
        versions={"torch": str(torch.__version__)},
    )
    description, *_ = save_bundle(bundle, folder / "bundle", tensors)
    return description, trial


@pytest.mark.parametrize("method", CONFIGS)
def test_a_loaded_bundle_is_the_trained_model_and_needs_no_images(method, task_folder, tmp_path):
    path, trial = write_bundle(method, task_folder, tmp_path)
    loaded = load_bundle(path)
    pixels = trial.load_pixels("val")
    images = pixels.normalised(torch.arange(len(pixels)))
    assert trial.model is not None
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), trial.model.eval()(images))


ELSEWHERE = """
import json, sys

class Missing:
    names = {missing}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from orchestrator.bundle import load_bundle
predictions = load_bundle({path!r}).predict({images!r})
print(json.dumps([p.label for p in predictions]))
"""
ABSENT = {
    "ray", "optuna", "mlflow", "pyarrow", "sklearn", "scipy", "pandas", "matplotlib", "typer",
    "rich", "psutil", "sqlalchemy", "jaxtyping",
}  # fmt: skip


def test_a_bundle_predicts_where_only_torch_and_timm_are_installed(task_folder, tmp_path):
    path, _ = write_bundle("spt", task_folder, tmp_path)
    images = [str(file) for file in sorted((task_folder / "images" / "test").iterdir())[:6]]
    script = ELSEWHERE.format(missing=ABSENT, path=str(path), images=images)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    here = [prediction.label for prediction in load_bundle(path).predict(images)]
    assert json.loads(done.stdout) == here
