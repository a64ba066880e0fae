"""Start points from older sweeps: what did best on their nearest tasks (`--warm-start`).

A task is near by what is known of it before any training: the same images, else the same group of
the suite, then numbers of classes and of training images. Configurations are taken whole, as they
ran; accuracies on test images are not known here.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from orchestrator.plan.described import FEW
from orchestrator.plan.nearness import ALIKE, apart
from orchestrator.plan.plan import StudyPlan, TaskPlan
from orchestrator.plan.space import SearchSpace, Value, default_of
from orchestrator.plan.start_points import (
    FROM_SPACE,
    LEAST_TRIALS_A_START_POINT,
    OF_SWEEP,
    StartPoint,
)
from orchestrator.support.counted import counted
from orchestrator.training.backbone import BackbonePlan
from orchestrator.training.config import hyperparameters

MOST = 3
"""Start points that a study takes from older ones."""
LENGTH = ("epochs", "warmup_epochs")
"""What may be fixed otherwise here and there: a shorter training is a guide to a longer one."""


@dataclass(frozen=True, kw_only=True)
class OlderTrial:
    """A complete trial of an older sweep."""

    number: int
    config: Mapping[str, Value]
    """Drawn and fixed values together."""
    val_accuracy: float


@dataclass(frozen=True, kw_only=True)
class OlderStudy:
    """A study of an older sweep."""

    sweep: str
    name: str
    task: TaskPlan
    method: str
    backbone: BackbonePlan
    best: Sequence[OlderTrial]
    """The best first."""


@dataclass(frozen=True, kw_only=True)
class Begins:
    """How one study begins."""

    study: StudyPlan
    found: Sequence[StartPoint]
    """What it takes from older studies."""
    others: Sequence[StartPoint]
    """What it begins with else, from elsewhere: of the portfolio."""
    left_out: int
    """Of the best configurations of its method, those that its space cannot draw."""
    why_none: str
    """Where nothing was found."""


def warm_started(
    studies: Sequence[StudyPlan],
    older: Sequence[OlderStudy],
    *,
    tasks: Sequence[TaskPlan],
    spaces: Sequence[SearchSpace],
    backbone: BackbonePlan,
    say: Callable[[str], None],
) -> tuple[StudyPlan, ...]:
    """The studies with start points from the older ones: behind those of their own space, which
    the user wrote, and before those of the portfolio, which knows nothing of these."""
    if not older:
        return tuple(studies)
    task_of, space_of = {t.name: t for t in tasks}, {s.name: s for s in spaces}
    begins = [
        _begins(one, older, task=task_of[one.task], space=space_of[one.space], backbone=backbone)
        for one in studies
    ]
    for line in _told(begins, older):
        say(line)
    return tuple(
        replace(one.study, start_points=(*_own(one.study), *one.found, *one.others))
        for one in begins
    )


def _own(study: StudyPlan) -> list[StartPoint]:
    return [point for point in study.start_points if point.origin == FROM_SPACE]


def _begins(
    study: StudyPlan,
    older: Sequence[OlderStudy],
    *,
    task: TaskPlan,
    space: SearchSpace,
    backbone: BackbonePlan,
) -> Begins:
    of_method = [one for one in older if one.method == space.method]
    nearest = sorted(of_method, key=lambda one: nearness(task, one.task))
    own = _own(study)
    room = max(0, study.num_trials // LEAST_TRIALS_A_START_POINT - len(own))
    most = min(MOST, room)
    taken: list[Mapping[str, Value]] = [point.config for point in own]
    found: list[StartPoint] = []
    left_out = 0
    # The best of each in turn, then the second best of each.
    for rank in zip_longest(*(one.best for one in nearest)):
        for source, trial in zip(nearest, rank, strict=True):
            if trial is None or len(found) >= most:
                continue
            config = drawn_in(space, trial.config)
            if config is None:
                left_out += 1
            elif not any(alike(space, config, other) for other in taken):
                taken.append(config)
                origin = _origin(source, trial, space, backbone)
                found.append(StartPoint(config=config, origin=origin))
    if not of_method:
        why_none = f"no older study is of method {space.method}"
    elif not any(one.best for one in of_method):
        why_none = "no older trial of its method is complete"
    elif most < 1:
        why_none = f"{counted(study.num_trials, 'trial')} are too few to begin elsewhere"
    else:
        why_none = f"what did best there is not among what space {space.name} searches"
    others = [
        point
        for point in study.start_points
        if point not in own and not any(alike(space, point.config, config) for config in taken)
    ][: room - len(found)]
    return Begins(study=study, found=found, others=others, left_out=left_out, why_none=why_none)


def _origin(
    source: OlderStudy, trial: OlderTrial, space: SearchSpace, backbone: BackbonePlan
) -> str:
    """`eurosat.vpt_deep #12 of sweep photos, val 91.5 %`, and what was otherwise there."""
    told = [
        f"{source.name} #{trial.number} {OF_SWEEP} {source.sweep}",
        f"val {100 * trial.val_accuracy:.1f} {source.task.objective.unit}",
    ]
    epochs = trial.config.get("epochs", default_of(space.method, "epochs"))
    if epochs != space.fixed.get("epochs", default_of(space.method, "epochs")):
        told.append(f"{epochs} epochs")
    if source.backbone.name != backbone.name:
        told.append(f"backbone {source.backbone.name}")
    elif source.backbone.weights_sha256 != backbone.weights_sha256:
        told.append("other weights")
    return ", ".join(told)


def _told(begins: Sequence[Begins], older: Sequence[OlderStudy]) -> Iterator[str]:
    """A line for each study, of many studies one for all."""
    if len(begins) <= FEW:
        for one in begins:
            name = one.study.name
            if one.found:
                yield f"{name} starts with {'; '.join(point.origin for point in one.found)}"
            else:
                yield f"{name} starts with nothing of older sweeps: {one.why_none}"
    else:
        sweeps = ", ".join(dict.fromkeys(one.sweep for one in older))
        found = [len(one.found) for one in begins if one.found]
        yield (
            f"{len(found)} of {counted(len(begins), 'study')} start with "
            f"{counted(sum(found), 'configuration')} of {sweeps}"
        )
        reasons = Counter(one.why_none for one in begins if not one.found)
        for reason, number in reasons.items():
            yield f"{counted(number, 'study')} with nothing of them: {reason}"
    left_out: dict[str, int] = {}
    for one in begins:
        left_out[one.study.space] = max(left_out.get(one.study.space, 0), one.left_out)
    for space, number in left_out.items():
        if number:
            yield (
                f"space {space}: left out {counted(number, 'configuration')} of older sweeps that "
                "it cannot draw"
            )


def nearness(task: TaskPlan, other: TaskPlan) -> tuple[bool, bool, float]:
    """Smaller is nearer: other images, another group, and by what factors their sizes differ."""
    factors = (other.num_classes / task.num_classes, other.num_train / task.num_train)
    return (
        other.fingerprint != task.fingerprint,
        other.group != task.group,
        sum(abs(math.log(factor)) for factor in factors),
    )


def drawn_in(space: SearchSpace, config: Mapping[str, Value]) -> dict[str, Value] | None:
    """What the space would draw for a configuration of its method; None if it cannot have it whole.

    Values that it holds fixed must be the same, but for the length of the training.
    """

    def ran_with(name: str) -> Value:
        return config.get(name, default_of(space.method, name))

    whole = dict(space.fixed)
    for dimension in space.dimensions:
        if dimension.applies(whole):
            whole[dimension.name] = ran_with(dimension.name)
    for name in hyperparameters(space.method):
        here = whole.get(name, default_of(space.method, name))
        if here != ran_with(name) and name not in LENGTH:
            return None
    drawn = space.searched(whole)
    return drawn if drawn and space.refused(drawn) is None else None


def alike(space: SearchSpace, one: Mapping[str, Value], other: Mapping[str, Value]) -> bool:
    """Whether two configurations of the space are nearly the same."""
    return all(each <= ALIKE for each in apart(space, one, other).values())
