"""Single trials for tests that train: the small backbone as a plan names it, and what is around."""

from pathlib import Path

from methods import load_backbone
from methods.hub_names import hub_name
from orchestrator.data.cache import ImageCache
from orchestrator.data.task import Task
from orchestrator.training.backbone import BackbonePlan
from orchestrator.training.config import TrialConfig, Value
from orchestrator.training.context import TrialContext
from orchestrator.training.numerics import Engine


def small_backbone(name: str = "vit_quickstart") -> BackbonePlan:
    """A network, the quickstart's, as a sweep would plan it."""
    found = load_backbone(name)
    of_hub = hub_name(name)
    return BackbonePlan(
        name=found.name,
        weights=str(found.weights) if of_hub else None,
        architecture=found.architecture if of_hub else None,
        arguments=found.arguments or None,
        weights_sha256=found.weights_sha256,
        image_size=found.image_size,
        num_parameters=found.num_parameters,
        resize="squash",
        interpolation=found.interpolation,
        crop_fraction=1.0,
        mean=found.mean,
        std=found.std,
    )


def context_of(
    task: Task,
    cache_folder: Path,
    *,
    device: str = "cpu",
    engine: Engine | None = None,
    backbone: str = "vit_quickstart",
) -> TrialContext:
    """Of trials on one task with a small backbone."""
    return TrialContext.of(
        small_backbone(backbone),
        [task],
        fingerprints={task.name: "f"},
        metrics={},
        cache=ImageCache(cache_folder),
        device=device,
        engine=engine,
    )


def trial_config(
    task: str, method: str, *, number: int = 0, seed: int = 1, **config: Value
) -> TrialConfig:
    """One configuration of a method on a task."""
    return TrialConfig(
        study=f"{task}.{method}",
        task=task,
        number=number,
        method=method,
        config=config,
        seed=seed,
    )
