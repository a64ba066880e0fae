"""Bundles of tiny trials, trained by the tests that need them."""

from dataclasses import asdict
from pathlib import Path

import torch
from trials import context_of, trial_config

from orchestrator.bundle.bundle import (
    Bundle,
    save_bundle,
)
from orchestrator.data.vtab import read_vtab_task
from orchestrator.support.checksum import sha256_of
from orchestrator.training.config import build
from orchestrator.training.numerics import Engine
from orchestrator.training.trial import Trial
from orchestrator.training.worker_cache import WorkerCache

CONFIGS = {
    "linear": {},
    "vpt": {"num_tokens": 3, "deep": True},
    "spt": {"num_tokens": 3, "init": "kmeans"},
    "vipamin": {"num_tokens": 3, "num_matched": 2},
    "bpt": {"num_tokens": 3, "channels": 4, "whiten": "fixed"},
    "gatevpt": {"num_tokens": 3},
    "lspt": {"num_tokens": 3, "hidden": 8},
    "apt": {},
    "cvpt": {"num_tokens": 3},
    "vapt": {"num_tokens": 3},
    "lora": {},
    "bias": {},
}


SHORT = {"epochs": 2, "warmup_epochs": 0}


def write_bundle(
    method: str,
    task_folder: Path,
    folder: Path,
    *,
    device: str = "cpu",
    engine: Engine | None = None,
    backbone: str = "vit_quickstart",
) -> tuple[Path, Trial]:
    """Train a configuration for two epochs and save it, as a sweep would."""
    task = read_vtab_task(task_folder)
    context = context_of(task, folder / "cache", device=device, engine=engine, backbone=backbone)
    config = trial_config(task.name, method, **{**CONFIGS[method], **SHORT})
    trial = Trial(config, context, WorkerCache(2**28))
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
        backbone=context.backbone,
        trial=config,
        recipe={**asdict(recipe), "readout": trial.model.recipe.readout},
        val_accuracy=rows[-1]["val_accuracy"],
        num_tuned_parameters=trial.model.num_tuned_parameters,
        device=trial.facts().device,
        cpu_threads=1,
        tensors_sha256=sha256_of(tensors),
        sweep="test",
        versions={"torch": str(torch.__version__)},
        engine=context.engine,
    )
    description, *_ = save_bundle(bundle, folder / "bundle", tensors)
    return description, trial
