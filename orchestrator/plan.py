"""The frozen plan of a sweep: one study per (task, search space), and all that a trial needs.

`sweep.yaml` is this plan. Nothing else is needed to understand or to resume a sweep.
"""

import dataclasses
import hashlib
import math
import platform
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from orchestrator.backbone import BackbonePlan
from orchestrator.engine import Engine
from orchestrator.space import SearchSpace, parse_space
from orchestrator.yaml_io import dump_yaml, read_yaml

FORMAT = 1
PLAN_FILE = "sweep.yaml"


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """One task as it was when the sweep was planned."""

    name: str
    group: str
    num_classes: int
    num_train: int
    num_val: int
    root: str
    fingerprint: str
    """Of the decoded images, labels and order of train and val."""


@dataclass(frozen=True, kw_only=True)
class PrunerPlan:
    """How weak trials are stopped: the name of an Optuna pruner and when it is asked."""

    name: str = "successive_halving"
    """successive_halving, median, hyperband, or none."""
    reduction_factor: int = 4
    """Of the trials at a rung, one in this many goes on (successive halving, hyperband)."""
    first_rung_epochs: int
    """No trial is stopped before this epoch."""

    def asked_at(self, epoch: int) -> bool:
        """Whether the pruner may decide after this epoch (1, 2, ...)."""
        if self.name == "none" or epoch < self.first_rung_epochs:
            return False
        if self.name != "successive_halving":
            return True
        rung = self.first_rung_epochs
        while rung < epoch:
            rung *= self.reduction_factor
        return rung == epoch


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """One search space on one task."""

    task: str
    space: str
    num_trials: int

    @property
    def name(self) -> str:
        return f"{self.task}.{self.space}"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Everything a sweep was started with."""

    name: str
    created: str
    """UTC, ISO 8601."""
    suite: str
    """vtab, fgvc, quickstart, or the absolute path of a folder."""
    data_root: str | None
    tasks: tuple[TaskPlan, ...]
    backbone: BackbonePlan
    spaces: Mapping[str, Mapping[str, Any]]
    """Each search space in full, by name."""
    studies: tuple[StudyPlan, ...]
    seed: int
    sampler: str
    """tpe or random."""
    pruner: PrunerPlan
    engine: Engine = field(default_factory=Engine)
    """How its trials are computed."""
    versions: Mapping[str, str]

    @cached_property
    def parsed_spaces(self) -> dict[str, SearchSpace]:
        return {
            name: parse_space(document, name=name, source=f"{PLAN_FILE}: spaces: {name}")
            for name, document in self.spaces.items()
        }

    @property
    def num_trials(self) -> int:
        return sum(study.num_trials for study in self.studies)

    def study(self, name: str) -> StudyPlan:
        return next(study for study in self.studies if study.name == name)

    def task(self, name: str) -> TaskPlan:
        return next(task for task in self.tasks if task.name == name)

    def trial_seed(self, study: str, number: int) -> int:
        """The seed of everything random in a trial; depends on nothing but its arguments."""
        return zlib.crc32(f"{self.seed}/{study}/{number}".encode())


def save_plan(plan: SweepPlan, folder: Path) -> None:
    """Write `sweep.yaml`; refuses to replace another plan."""
    text = dump_yaml(plan_document(plan))
    with (folder / PLAN_FILE).open("x", encoding="utf-8") as file:
        file.write(text)


def load_plan(folder: Path) -> SweepPlan:
    """The plan of a sweep folder; ValueError if it is none or was written by a newer version."""
    path = folder / PLAN_FILE
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such sweep folder")
    if not path.is_file():
        raise ValueError(f"{folder}: is not a sweep folder (it has no {PLAN_FILE})")
    return read_plan(read_yaml(path), source=str(path))


def plan_document(plan: SweepPlan) -> dict[str, Any]:
    """The plan as YAML and JSON can hold it."""
    return _plain({"format": FORMAT, **dataclasses.asdict(plan)})


def read_plan(document: Any, *, source: str) -> SweepPlan:
    """The plan that `plan_document` gave; ValueError names `source` if it is none."""
    if not isinstance(document, dict) or "format" not in document:
        raise ValueError(f"{source}: is not a sweep plan (no `format` line)")
    document = dict(document)
    if document.pop("format") != FORMAT:
        raise ValueError(f"{source}: was written in another format than {FORMAT}, which we read")
    try:
        backbone = document.pop("backbone")
        return SweepPlan(
            backbone=BackbonePlan(
                **{**backbone, "mean": tuple(backbone["mean"]), "std": tuple(backbone["std"])}
            ),
            tasks=tuple(TaskPlan(**task) for task in document.pop("tasks")),
            studies=tuple(StudyPlan(**study) for study in document.pop("studies")),
            pruner=PrunerPlan(**document.pop("pruner")),
            engine=Engine(**document.pop("engine", {})),
            **document,
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"{source}: is not a complete sweep plan: {error}") from error


def versions() -> dict[str, str]:
    """Of what a result may depend on."""
    packages = ("torch", "timm", "optuna", "ray", "mlflow", "visual-prompt-orchestrator")
    found = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found, "code": code_digest()}


def code_digest() -> str:
    """Of our own files that decide what a trial's numbers are."""
    files = [file for file in resources.files("methods").iterdir() if file.name.endswith(".py")]
    files += [
        resources.files("orchestrator") / name for name in ("engine.py", "train.py", "trial.py")
    ]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def default_first_rung_epochs(epochs: int, warmup_epochs: float) -> int:
    """After the warm-up, when learning rates can be told apart, plus a twentieth of the epochs."""
    return min(epochs, math.ceil(warmup_epochs) + max(1, round(0.05 * epochs)))


def _plain(value: Any) -> Any:
    """Tuples and mappings as YAML's lists and dicts."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
