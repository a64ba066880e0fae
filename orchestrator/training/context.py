"""What all trials of a sweep share."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from orchestrator.data.cache import (
    DecodedSplit,
    ImageCache,
    default_cache_root,
    open_search_splits,
)
from orchestrator.data.task import SEARCH_SPLITS, Task
from orchestrator.data.transform import ImageTransform
from orchestrator.training.backbone import BackbonePlan, image_transform
from orchestrator.training.driver_files import DriverFiles
from orchestrator.training.feature_cache import FeatureCache
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import DEFAULT_METRIC, Objective, objective_named
from orchestrator.training.own_methods import OwnMethod
from orchestrator.training.pruning import NeverPruned, RungRule

CHECKPOINT_SECONDS = float(os.environ.get("ORCHESTRATOR_CHECKPOINT_SECONDS", 30))
"""At most so much of a running trial is lost."""

SILENT_SECONDS = float(os.environ.get("ORCHESTRATOR_SILENT_SECONDS", 1800))
"""A trial that finishes no epoch within this time is ended and run again."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What all trials of a sweep share. Holds no test images and cannot open any."""

    backbone: BackbonePlan
    tasks: Mapping[str, Task]
    fingerprints: Mapping[str, str]
    """By task, as planned: a task whose images changed since is refused."""
    pruner: RungRule
    """So that a worker reports when the pruner wants to know."""
    cache_folder: str
    device: str
    cpu_threads: int
    engine: Engine
    gpu_share: float = 1.0
    """The part of a GPU that a trial has; with several GPUs 1."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Names of the tasks' objectives; of a task that is not there the default."""
    driver_files: DriverFiles | None = None
    """Where workers do not share the driver's disk; None: they read images and weights there."""
    own_methods: Mapping[str, OwnMethod] = field(default_factory=dict)
    """Methods that do not come with this package, by name: workers need not have their files."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    silent_seconds: float = SILENT_SECONDS

    @classmethod
    def of(
        cls,
        backbone: BackbonePlan,
        tasks: Iterable[Task],
        *,
        fingerprints: Mapping[str, str],
        metrics: Mapping[str, str],
        cache: ImageCache,
        device: str = "cpu",
        cpu_threads: int = 1,
        gpu_share: float = 1.0,
        engine: Engine | None = None,
        pruner: RungRule | None = None,
        own_methods: Mapping[str, OwnMethod] | None = None,
    ) -> Self:
        """The context of trials that read images from `cache`, on this machine or a shared disk.

        `fingerprints` are those of the decoded train and val images, by task; `metrics` names their
        objectives, where these are not the default. Without a pruner nothing is stopped. Test
        images are left out here, whatever the tasks have.
        """
        tasks = list(tasks)
        return cls(
            backbone=backbone,
            tasks={task.name: task.for_search() for task in tasks},
            fingerprints=dict(fingerprints),
            metrics=dict(metrics),
            pruner=pruner or NeverPruned(),
            cache_folder=str(cache.root),
            device=device,
            cpu_threads=cpu_threads,
            gpu_share=gpu_share,
            engine=engine or Engine(),
            own_methods=own_methods or {},
            **cls._of_tasks(tasks),
        )

    @classmethod
    def _of_tasks(cls, tasks: Sequence[Task]) -> dict[str, Any]:
        """What a stage of its own keeps of the tasks beside what the search may see."""
        return {}

    @property
    def transform(self) -> ImageTransform:
        return image_transform(self.backbone)

    def objective(self, task: str) -> Objective:
        return objective_named(self.metrics.get(task, DEFAULT_METRIC))

    @property
    def features(self) -> FeatureCache:
        """The cache of features on the node that this trial runs on."""
        return FeatureCache(
            Path(self.cache_folder) if self.driver_files is None else default_cache_root()
        )

    def search_splits(self, task: str) -> Mapping[str, DecodedSplit]:
        """The decoded train and val."""
        if self.driver_files is not None:
            return self.driver_files.splits(task, SEARCH_SPLITS, self.transform)
        return open_search_splits(
            self.tasks[task], self.transform, ImageCache(Path(self.cache_folder))
        )
