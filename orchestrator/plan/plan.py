"""The frozen plan of a sweep: one study per (task, search space), and all that a trial needs.

`sweep.yaml` is this plan. Nothing else is needed to understand or to resume a sweep.
"""

import dataclasses
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from orchestrator.data.split import SplitRule
from orchestrator.plan.allocation import ALLOCATIONS, EQUAL, GAIN
from orchestrator.plan.costs import Also
from orchestrator.plan.pruners import PRUNERS, Pruner, current_entry, entry_of
from orchestrator.plan.pruners.options import choices as pruner_choices
from orchestrator.plan.samplers import SAMPLERS
from orchestrator.plan.space import SearchSpace, outline_space, parse_space
from orchestrator.plan.start_points import StartPoint, refuse_start_points
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import (
    Between,
    Entries,
    Name,
    OneOf,
    OneOfKinds,
    read_as,
    shown,
    why_no_name,
)
from orchestrator.support.formats import Format
from orchestrator.support.regular_file import refuse_links
from orchestrator.support.yaml_io import dump_yaml, read_yaml
from orchestrator.training.backbone import BackbonePlan
from orchestrator.training.config import TrialConfig, Value
from orchestrator.training.named_methods import use_planned
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import (
    DEFAULT_METRIC,
    MetricName,
    Objective,
    Score,
    objective_named,
)
from orchestrator.training.own_methods import OwnMethod


def _pruner_with_its_own_fields(plan: dict[str, Any]) -> dict[str, Any]:
    """Format 2: the entry of a pruner has the fields of that pruner and no others."""
    return {**plan, "pruner": current_entry(plan["pruner"])} if "pruner" in plan else plan


FORMAT = Format("a sweep plan", (_pruner_with_its_own_fields,))
PLAN_FILE = "sweep.yaml"

MOST_TRIALS = 10_000_000
"""The most trials that a study may have."""


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """One task as it was when the sweep was planned."""

    name: Annotated[str, Name()]
    group: str
    num_classes: Annotated[int, Between(2, 10**6)]
    num_train: Annotated[int, Between(1, 10**9)]
    num_val: Annotated[int, Between(1, 10**9)]
    root: str
    fingerprint: str
    """A digest of the decoded images, labels and order of train and val."""
    val_majority: Annotated[int, Between(1, 10**9)] | None = None
    """Val images of the most frequent class; None in plans of before it was kept."""
    class_names: tuple[str, ...] = ()
    """By label; empty in plans of before they were kept, and where a task has very many."""
    metric: MetricName = DEFAULT_METRIC
    """Name of the objective that is trained for, maximised and reported."""
    val_baseline: Score | None = None
    """The val score of always answering the most frequent class; None: that of top-1 accuracy."""
    val_effective_images: Annotated[float, Between(1e-9, 10**9)] | None = None
    """As many val images of a top-1 accuracy would tell as much; None: `num_val`."""
    read_as: str = ""
    """In what form the images lie, in words; empty for lists of a suite, for class folders, and
    in plans of before it was kept."""

    @property
    def objective(self) -> Objective:
        return objective_named(self.metric)

    @property
    def val_majority_share(self) -> float | None:
        """The val score of always answering the most frequent class."""
        if self.val_baseline is not None:
            return self.val_baseline
        return None if self.val_majority is None else self.val_majority / self.num_val

    @property
    def val_images(self) -> float:
        """What uncertainty is computed from where no trial says it better."""
        return self.num_val if self.val_effective_images is None else self.val_effective_images


@dataclass(frozen=True, kw_only=True)
class GpuShare:
    """How much of a GPU suits a trial, as it was measured when the sweep was planned."""

    gpus_per_trial: Annotated[float, Between(1e-3, 1)]
    gpu: str
    """The GPU that it was measured on, as its driver names it. Another may be of another size."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """One search space on one task."""

    task: Annotated[str, Name()]
    space: Annotated[str, Name()]
    num_trials: Annotated[int, Between(1, MOST_TRIALS)]
    start_points: tuple[StartPoint, ...] = ()
    """What its first trials are, before the sampler proposes any."""
    ended: str = ""
    """Why it gets no more trials, in a plan as it is now; never stored with it."""

    @property
    def name(self) -> str:
        return f"{self.task}.{self.space}"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Everything a sweep was started with."""

    name: Annotated[str, Name()]
    created: str
    """UTC, ISO 8601."""
    suite: str
    """vtab, fgvc, quickstart, or the absolute path of a folder."""
    data_root: str | None
    tasks: Annotated[tuple[TaskPlan, ...], Entries(1)]
    backbone: BackbonePlan
    spaces: Annotated[Mapping[Annotated[str, Name()], Mapping[str, Any]], Entries(1)]
    """Each search space in full, by name."""
    studies: Annotated[tuple[StudyPlan, ...], Entries(1)]
    seed: int
    split_seed: int | None = None
    """Seed of the split of data that comes unsplit; None in plans that were made when it was the
    seed above."""
    split: tuple[float, float, float] | None = None
    """Fractions of train, val and test that the user chose for them."""
    sampler: Annotated[str, OneOf(tuple(SAMPLERS))]
    """tpe or random."""
    allocation: Annotated[str, OneOf(ALLOCATIONS)] = EQUAL
    """How its studies share their trials: equal or gain."""
    also: Also | None = None
    """What is minimized beside the score; None: nothing."""
    share_winners: bool = False
    """Whether a study tries what did best in the others of its space."""
    pruner: Annotated[Pruner, OneOfKinds({name: PRUNERS[name] for name in pruner_choices()})]
    engine: Engine = field(default_factory=Engine)
    """How its trials are computed."""
    gpu_share: GpuShare | None = None
    """What a trial has of a GPU where nobody says it; None: a whole one, on whatever GPU."""
    versions: Mapping[str, str]
    own_methods: Mapping[Annotated[str, Name()], OwnMethod] = field(default_factory=dict)
    """Methods of its spaces that do not come with this package, by name."""

    @cached_property
    def parsed_spaces(self) -> dict[str, SearchSpace]:
        return {
            name: outline_space(document, name=name, source=f"{PLAN_FILE}: spaces: {name}")
            for name, document in self.spaces.items()
        }

    def check_spaces(self) -> None:
        """ValueError if a method refuses a value of its space, which would fail its trials.

        Not asked of whoever only reads, since methods bring torch.
        """
        for name, document in self.spaces.items():
            parse_space(document, name=name, source=f"{PLAN_FILE}: spaces: {name}")

    @property
    def split_rule(self) -> SplitRule:
        """How data that comes unsplit is split; older plans keep the rule that they had."""
        if self.split_seed is None:
            return SplitRule(seed=self.seed, copies_together=False)
        return SplitRule(seed=self.split_seed, fractions=self.split)

    @property
    def num_trials(self) -> int:
        return sum(study.num_trials for study in self.studies)

    def study(self, name: str) -> StudyPlan:
        return next(study for study in self.studies if study.name == name)

    def task(self, name: str) -> TaskPlan:
        return next(task for task in self.tasks if task.name == name)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The digest of the decoded images of every task, by its name."""
        return {task.name: task.fingerprint for task in self.tasks}

    def objective(self, study: str) -> Objective:
        """The objective of the task that a study is on."""
        return self.task(self.study(study).task).objective

    @property
    def metrics(self) -> dict[str, str]:
        """By task."""
        return {task.name: task.metric for task in self.tasks}

    def trial_seed(self, study: str, number: int) -> int:
        """The seed of everything random in a trial; depends on nothing but its arguments."""
        return zlib.crc32(f"{self.seed}/{study}/{number}".encode())

    def trial_config(
        self, study: str, number: int, config: Mapping[str, Value], *, seed: int | None = None
    ) -> TrialConfig:
        """What a worker needs to run trial `number` of `study` with the values of `config`.

        `seed` is given where it is not the trial's own, as in the last stage.
        """
        planned = self.study(study)
        return TrialConfig(
            study=study,
            task=planned.task,
            number=number,
            method=self.parsed_spaces[planned.space].method,
            config=dict(config),
            seed=self.trial_seed(study, number) if seed is None else seed,
        )


def save_plan(plan: SweepPlan, folder: Path) -> None:
    """Write `sweep.yaml`; refuses to replace another plan."""
    document = plan_document(plan)
    read_plan(document, source=f"{folder.name}: this sweep")  # or it could not be resumed
    text = dump_yaml(document)
    with (folder / PLAN_FILE).open("x", encoding="utf-8") as file:
        file.write(text)


def load_plan(folder: Path) -> SweepPlan:
    """The plan of a sweep folder; ValueError if it is none or was written by a newer version."""
    path = folder / PLAN_FILE
    if folder.is_file():
        inside = (folder.parent / PLAN_FILE).is_file()
        where = f"; the sweep is {folder.parent}" if inside else ""
        raise ValueError(f"{folder}: is a file, not the folder of a sweep{where}")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such sweep folder")
    if not path.is_file():
        raise ValueError(f"{folder}: is not a sweep folder (it has no {PLAN_FILE})")
    refuse_links(folder)
    return read_plan(read_yaml(path, follow_link=False), source=str(path))


def plan_document(plan: SweepPlan) -> dict[str, Any]:
    """The plan as YAML and JSON can hold it."""
    document = _plain(FORMAT.stamped(dataclasses.asdict(plan)))
    if not plan.own_methods:
        del document["own_methods"]  # as in plans of before
    if plan.gpu_share is None:
        del document["gpu_share"]
    if plan.also is None:
        del document["also"]
    if not plan.share_winners:
        del document["share_winners"]
    document["pruner"] = _plain(entry_of(plan.pruner))
    if plan.allocation == EQUAL:
        del document["allocation"]
    for study in document["studies"]:
        del study["ended"]
        if not study["start_points"]:
            del study["start_points"]
    return document


def read_plan(document: Any, *, source: str) -> SweepPlan:
    """The plan that `plan_document` gave; ValueError names `source` if it is none."""
    plan = read_as(SweepPlan, FORMAT.up_to_date(document, source=source), source=source)
    use_planned(plan.own_methods, source=f"{source}: own_methods")
    _check_consistent(plan, source)
    return plan


def _check_consistent(plan: SweepPlan, source: str) -> None:
    """What its parts say of each other, and the search spaces."""
    try:
        plan.split_rule  # noqa: B018
    except ValueError as error:
        raise ValueError(f"{source}: split: {error}") from error
    try:
        datetime.fromisoformat(plan.created)
    except ValueError:
        raise ValueError(
            f"{source}: created: expected a time such as 2026-01-31T12:00:00+00:00, found "
            f"{shown(plan.created)}"
        ) from None
    if plan.allocation == GAIN and plan.pruner.freezes:
        raise ValueError(
            f"{source}: allocation: gain judges a study by trials that ended, and with "
            "`freeze: true` of its pruner they wait: take one of both"
        )
    tasks = [task.name for task in plan.tasks]
    studies = [study.name for study in plan.studies]
    for kind, names in (("tasks", tasks), ("studies", studies)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"{source}: {kind}: {twice[0]!r} stands there twice")
    for task in plan.tasks:
        if (task.val_majority or 0) > task.num_val:
            raise ValueError(
                f"{source}: tasks: {task.name}: val_majority {task.val_majority} is more than "
                f"num_val {task.num_val}"
            )
        if len(task.class_names) not in (0, task.num_classes):
            raise ValueError(
                f"{source}: tasks: {task.name}: {len(task.class_names)} class_names for "
                f"{task.num_classes} classes"
            )
    for name, own in plan.own_methods.items():
        if own.name != name:
            raise ValueError(f"{source}: own_methods: {name}: name: found {shown(own.name)}")
    for study in plan.studies:
        if study.task not in tasks:
            raise ValueError(f"{source}: studies: {unknown('task', study.task, tasks)}")
        if study.space not in plan.spaces:
            raise ValueError(f"{source}: studies: {unknown('space', study.space, plan.spaces)}")
        if reason := why_no_name(study.name):
            raise ValueError(f"{source}: studies: {shown(study.name)}: {reason}")
    spaces = {
        name: outline_space(document, name=name, source=f"{source}: spaces: {name}")
        for name, document in plan.spaces.items()
    }
    for study in plan.studies:
        points = study.start_points
        refuse_start_points(points, spaces[study.space], f"{source}: studies: {study.name}")


def _plain(value: Any) -> Any:
    """Tuples and mappings as YAML's lists and dicts."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
