"""From a command's arguments to a frozen plan: everything is checked before compute is spent."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from methods import Recipe, load_backbone, tune, with_epochs
from methods.agreement import check_agreement
from methods.catalogue import declaration
from methods.families import family_of
from methods.hub_names import hub_name
from orchestrator.data.cache import ImageCache, open_search_splits, task_fingerprint
from orchestrator.data.check import check_task
from orchestrator.data.suites import PUBLISHED_SUITES, Suite, load_suite
from orchestrator.data.summary import describe
from orchestrator.data.task import Task
from orchestrator.data.transform import ImageTransform
from orchestrator.plan.asked import Asked, look_at, methods_of, num_trials_of
from orchestrator.plan.backbone_arguments import parse_arguments
from orchestrator.plan.costs import second_objective
from orchestrator.plan.described import FEW
from orchestrator.plan.drawn_together import check_drawn_together
from orchestrator.plan.gpu_share import GpuShareChooser
from orchestrator.plan.places import under_planned_names
from orchestrator.plan.plan import StudyPlan, SweepPlan, TaskPlan
from orchestrator.plan.portfolio import portfolio_of, shipped_portfolio
from orchestrator.plan.precision import PrecisionChooser, choose_precision
from orchestrator.plan.pruners import Pruner
from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.plan.request import SweepRequest
from orchestrator.plan.shared_winners import refuse_without_room
from orchestrator.plan.space import (
    SearchSpace,
    Value,
    build,
    extremes,
    load_space,
    parse_space,
)
from orchestrator.plan.start_points import (
    LEAST_TRIALS_A_START_POINT,
    StartPoint,
    start_points_of,
)
from orchestrator.plan.warm_start import OlderStudy, warm_started
from orchestrator.support.counted import counted
from orchestrator.support.phases import phase
from orchestrator.training.backbone import BackbonePlan, image_transform
from orchestrator.training.loop import MOST_CLASSES
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import objective_named
from orchestrator.training.own_methods import own_methods_of
from orchestrator.training.versions import versions

logger = logging.getLogger(__name__)

NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of pixel values in [0, 1]."""

SHOWN_PROBLEMS = 10


def plan_sweep(
    request: SweepRequest,
    *,
    name: str,
    cache: ImageCache,
    say: Callable[[str], None],
    device: str = "cpu",
    cpu_threads: int = 1,
    choose: PrecisionChooser = choose_precision,
    share: GpuShareChooser | None = None,
    asked: Asked | None = None,
    older: Sequence[OlderStudy] = (),
) -> tuple[SweepPlan, Suite]:
    """Check suite, spaces, backbone and every image; decode what is not cached yet.

    `device` and `cpu_threads` are those of a trial: `choose` takes the precision for them, last of
    all, since it may have to wait for a machine; then `share`, if there is a choice, how much of a
    GPU it has. `asked` is what was already looked at; `older` are the studies that these begin
    with what did best in. ValueError says what is wrong, before anything is started.
    """
    asked = asked or look_at(request, name=name, say=say)
    suite, metrics, rule = asked.suite, asked.metrics, asked.rule
    spaces = [
        entry if isinstance(entry, SearchSpace) else load_space(str(entry))
        for entry in methods_of(request)
    ]
    spaces = [_with_epochs(space, _epochs(request)) for space in spaces]
    backbone, vit = _plan_backbone(request, suite)
    spaces = _fitted(spaces, vit, say)
    _check_tasks(suite)
    tasks = _plan_tasks(suite.tasks, metrics, backbone, cache, say)
    studies = tuple(
        StudyPlan(
            task=task.name,
            space=space.name,
            num_trials=(num_trials := _num_trials(request, space)),
            start_points=_start_points(request, space, backbone, num_trials),
        )
        for task in tasks
        for space in spaces
    )
    studies = warm_started(studies, older, tasks=tasks, spaces=spaces, backbone=backbone, say=say)
    if request.share_winners:
        refuse_without_room(studies)
    engine = choose(
        vit,
        _plan_engine(request, device, say),
        precision=request.precision,
        launch=request.launch,
        device=device,
        cpu_threads=cpu_threads,
        images=_most_images(studies, tasks, spaces),
        say=say,
    )
    gpu_share = None if share is None else share(vit, engine, say=say)
    own_methods = own_methods_of(space.method for space in spaces)
    plan = SweepPlan(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        suite=_absolute(request.suite),
        data_root=str(request.data.absolute()) if request.data else None,
        tasks=tasks,
        backbone=backbone,
        spaces={space.name: space.document for space in spaces},
        studies=studies,
        seed=request.seed,
        split_seed=rule.seed,
        split=rule.fractions,
        sampler=request.sampler,
        allocation=request.allocation,
        also=second_objective(request.also),
        share_winners=request.share_winners,
        pruner=_plan_pruner(request, spaces),
        engine=engine,
        gpu_share=gpu_share,
        versions=versions(own_methods),
        own_methods=own_methods,
    )
    return plan, suite


def reopen_suite(plan: SweepPlan, cache: ImageCache) -> Suite:
    """The suite of a plan as it is now; ValueError if its images changed since."""
    with phase(f"reading the lists and folders of {plan.suite}"):
        suite = planned_suite(plan)
    transform = image_transform(plan.backbone)
    with phase("comparing the images with those that were planned", len(plan.tasks)) as compared:
        for task, planned in zip(suite.tasks, plan.tasks, strict=True):
            _refuse_changed(task, planned, transform, plan)
            open_search_splits(task, transform, cache)
            compared.advance()
    return suite


def _refuse_changed(
    task: Task, planned: TaskPlan, transform: ImageTransform, plan: SweepPlan
) -> None:
    now = task_fingerprint(task, transform)
    if now != planned.fingerprint:
        older = ", or are read in another way than then" if plan.split_seed is None else ""
        if task.read_as != planned.read_as:
            forms = (one or "folders or lists" for one in (planned.read_as, task.read_as))
            older += ": read then as {}, now as {}".format(*forms)
        raise ValueError(
            f"{task.root}: the images or labels of {task.name} changed since the sweep was "
            f"planned{older} (fingerprint {now[:12]} now, {planned.fingerprint[:12]} then)"
        )


def planned_suite(plan: SweepPlan) -> Suite:
    """The suite of a plan, as it lies on the disk now."""
    return under_planned_names(
        lambda tasks: load_suite(
            plan.suite,
            data_root=Path(plan.data_root) if plan.data_root else None,
            tasks=tasks,
            rule=plan.split_rule,
        ),
        [task.name for task in plan.tasks],
    )


def _epochs(request: SweepRequest) -> int | None:
    if request.epochs is None and request.suite == "quickstart":
        return 20
    return request.epochs


def _num_trials(request: SweepRequest, space: SearchSpace) -> int:
    return int(min(num_trials_of(request), space.num_combinations()))


def _start_points(
    request: SweepRequest, space: SearchSpace, backbone: BackbonePlan, num_trials: int
) -> tuple[StartPoint, ...]:
    """The user's own, then those of the portfolio."""
    own = start_points_of(space, num_trials)
    if not request.portfolio:
        return own
    tried = [point.config for point in own]
    known = portfolio_of(space, backbone.name, shipped_portfolio())
    new = [point for point in known if point.config not in tried]
    return (*own, *new[: max(0, num_trials // LEAST_TRIALS_A_START_POINT - len(own))])


def _with_epochs(space: SearchSpace, epochs: int | None) -> SearchSpace:
    """The space with another number of epochs, and the warm-up shortened in proportion."""
    if epochs is None:
        return space
    _, recipe = build(space.method, space.fixed, source=space.name)
    warmup = with_epochs(recipe, epochs).warmup_epochs
    return space.with_fixed({"epochs": epochs, "warmup_epochs": warmup})


def _plan_backbone(request: SweepRequest, suite: Suite) -> tuple[BackbonePlan, nn.Module]:
    name = request.backbone or suite.default_backbone
    assert name is not None  # or it was refused when the request was looked at
    with phase(f"loading the backbone {name}"):
        backbone = load_backbone(
            name,
            weights=request.weights,
            image_size=request.image_size,
            arguments=parse_arguments(request.backbone_args or ()),
        )
        try:
            check_agreement(backbone.vit)
        except ValueError as error:
            raise ValueError(f"{backbone.name}: {error}") from error
    mean, std, normalised_by = backbone.mean, backbone.std, backbone.normalised_by
    if request.normalization is not None:
        mean, std = NORMALIZATIONS[request.normalization]
        normalised_by = f"--normalization {request.normalization}"
    network = backbone.network
    plan = BackbonePlan(
        name=backbone.name,
        weights=str(backbone.weights.absolute()) if backbone.weights else None,
        weights_sha256=backbone.weights_sha256,
        image_size=backbone.image_size,
        num_parameters=backbone.num_parameters,
        resize=request.resize or "squash",
        interpolation=backbone.interpolation,
        crop_fraction=1.0,
        mean=mean,
        std=std,
        num_heads=network.num_heads if network else None,
        activation=network.activation if network else None,
        norm_eps=network.norm_eps if network else None,
        part=backbone.part,
        assumed=backbone.assumed,
        normalised_by=normalised_by,
        architecture=backbone.architecture if hub_name(name) else None,
        arguments=backbone.arguments or None,
        revision=backbone.revision,
    )
    return plan, backbone.vit


def _fitted(
    spaces: Sequence[SearchSpace], vit: nn.Module, say: Callable[[str], None]
) -> list[SearchSpace]:
    fitted = []
    with phase("trying the search spaces on the backbone", len(spaces)) as tried:
        for space in spaces:
            fitted.append(fit_to_backbone(space, vit, say))
            tried.advance()
    return fitted


def fit_to_backbone(space: SearchSpace, vit: nn.Module, say: Callable[[str], None]) -> SearchSpace:
    """The space without the choices that this backbone has no room for, which are named.

    A gating depth of 9, for one, needs more than 9 blocks. ValueError where nothing is left, or
    where a fixed value, an end of a range, or two values that may be drawn together do not fit.
    """
    seen: dict[int, Any] = {}
    _try_on(space, vit, {}, seen)
    search = dict(space.document["search"])
    for dimension in space.dimensions:
        values = extremes(dimension.distribution)
        refused = {}
        for value in values:
            try:
                _try_on(space, vit, {dimension.name: value}, seen)
            except ValueError as error:
                refused[value] = error
        if not refused:
            continue
        line = search[dimension.name]
        if "choices" not in line or len(refused) == len(values):
            raise next(iter(refused.values()))
        for value, error in refused.items():
            say(f"space {space.name}: left out {dimension.name} = {value}: {error}")
        search[dimension.name] = {**line, "choices": [v for v in values if v not in refused]}
        if dimension.prior is not None and dimension.prior.value in refused:
            del search[dimension.name]["prior"]
            say(f"space {space.name}: and with it the prior of {dimension.name}")
    start = [dict(one) for one in space.start if _can_be_drawn(one, search)]
    if (left_out := len(space.start) - len(start)) > 0:
        say(f"space {space.name}: left out {counted(left_out, 'configuration')} to start with")
    document = {**space.document, "search": search, **({"start": start} if space.start else {})}
    fitted = parse_space(document, name=space.name, source=space.name)
    check_drawn_together(fitted, vit, seen[max(seen)] if seen else None)
    return fitted


def _can_be_drawn(config: Mapping[str, Value], search: Mapping[str, Any]) -> bool:
    """Whether all its values are among the choices that are left."""
    lines = [(search[name], value) for name, value in config.items()]
    return all("choices" not in line or value in line["choices"] for line, value in lines)


def _try_on(
    space: SearchSpace, vit: nn.Module, values: Mapping[str, Value], seen: dict[int, Any]
) -> None:
    """Build what the values add to the backbone; ValueError if they do not fit it.

    `seen`: what the method has kept of so many images.
    """
    source = f"space {space.name}"
    method, recipe = build(space.method, {**space.fixed, **values}, source=source)
    if values and not values.keys() & declaration(space.method).types.keys():
        method = method.without_images()  # what stands in the recipe alone changes no start
    images = None
    if method.needs_images:
        family = family_of(vit)
        # Enough to choose all its prompts from their patches: a task has more than these.
        count = max(2, math.ceil((method.length or 0) / math.prod(family.grid(vit))))
        if count not in seen:
            seen[count] = method.look_at(vit, torch.zeros(count, 3, *family.image_size(vit)))
        images = seen[count]
    tune(vit, method, images, num_classes=2, recipe=recipe)


def _check_tasks(suite: Suite) -> None:
    problems = []
    with phase("checking the images, tasks", len(suite.tasks)) as checked:
        for task in suite.tasks:
            problems += check_task(task, decode=True)
            checked.advance()
    for problem in problems:
        if problem.severity == "warning":
            logger.warning("%s", problem)
    errors = [str(p) for p in problems if p.severity == "error"]
    if errors:
        more = len(errors) - SHOWN_PROBLEMS
        raise ValueError(
            "the data cannot be used as it is:\n  "
            + "\n  ".join(errors[:SHOWN_PROBLEMS])
            + (f"\n  and {more} more (see `orchestrator data check`)" if more > 0 else "")
        )


def _plan_tasks(
    tasks: Sequence[Task],
    metrics: Mapping[str, str],
    backbone: BackbonePlan,
    cache: ImageCache,
    say: Callable[[str], None],
) -> tuple[TaskPlan, ...]:
    """Decode what is not decoded yet; what is said of a task is told with its name."""
    before, planned = cache.decoded_images, []
    with phase("preparing the images, tasks", len(tasks)) as prepared:
        for task in tasks:
            if task.layout == "image_folder" or task.read_as:
                # Of many tasks only what a user may want to mend.
                for line in describe(task) if len(tasks) <= FEW else task.notes:
                    say(f"{task.name}: {line}")
            planned.append(_plan_task(task, metrics[task.name], backbone, cache, say))
            prepared.advance()
    fresh = cache.decoded_images - before
    say(
        f"images of {counted(len(tasks), 'task')}: "
        + (f"{fresh:,} decoded" if fresh else "all decoded before")
    )
    return tuple(planned)


def _plan_task(
    task: Task, metric: str, backbone: BackbonePlan, cache: ImageCache, say: Callable[[str], None]
) -> TaskPlan:
    transform = image_transform(backbone)
    splits = open_search_splits(task, transform, cache)
    val_labels, objective = splits["val"].labels, objective_named(metric)
    baseline = objective.constant_score(val_labels)
    effective_images = objective.effective_images_of(val_labels)
    if effective_images is not None:
        num_there = len(np.unique(val_labels))
        absent = (
            f", over the {num_there} of {task.num_classes} classes that have val images"
            if num_there < task.num_classes
            else ""
        )
        say(
            f"{task.name}: measured in {objective.words}{absent}: as sure as an accuracy on "
            f"{effective_images:.0f} images"
        )
    return TaskPlan(
        name=task.name,
        group=task.group,
        num_classes=task.num_classes,
        num_train=len(splits["train"].labels),
        num_val=len(splits["val"].labels),
        root=str(task.root),
        fingerprint=task_fingerprint(task, transform),
        val_majority=int(np.bincount(splits["val"].labels).max()),
        class_names=task.class_names if task.num_classes <= MOST_CLASSES else (),
        metric=metric,
        val_baseline=None if effective_images is None else baseline,
        val_effective_images=effective_images,
        read_as=task.read_as,
    )


def _most_images(
    studies: Sequence[StudyPlan], tasks: Sequence[TaskPlan], spaces: Sequence[SearchSpace]
) -> int:
    """Training images that all trials see in all their epochs, if none is stopped."""
    train = {task.name: task.num_train for task in tasks}
    epochs = {space.name: recipe.epochs for space, recipe in _recipes(spaces)}
    return sum(s.num_trials * train[s.task] * epochs[s.space] for s in studies)


def _recipes(spaces: Sequence[SearchSpace]) -> list[tuple[SearchSpace, Recipe]]:
    return [(space, build(space.method, space.fixed, source=space.name)[1]) for space in spaces]


def _plan_pruner(request: SweepRequest, spaces: Sequence[SearchSpace]) -> Pruner:
    recipes = [recipe for _, recipe in _recipes(spaces)]
    return plan_pruner(
        request.pruner,
        request.pruner_options,
        epochs=min(r.epochs for r in recipes),
        warmup_epochs=max(r.warmup_epochs for r in recipes),
    )


def _plan_engine(request: SweepRequest, device: str, say: Callable[[str], None]) -> Engine:
    """All but what is measured. Without a word from the user, as the suite's published protocol."""
    is_of_gpus = request.deterministic or request.launch != "auto"
    if device == "cpu" and is_of_gpus:
        say("--launch and --deterministic are for GPUs: on this CPU they change nothing")
    published = PUBLISHED_SUITES.get(request.suite)
    augment = request.augment
    if augment is None:
        augment = published is not None and published.augment
    return Engine(
        eval_every=request.eval_every,
        frozen_cache=request.frozen_cache,
        augment=augment,
        deterministic=request.deterministic and device != "cpu",
    )


def _absolute(suite: str) -> str:
    """A suite by name stays a name; a path is kept absolute, so that resume works anywhere."""
    path = Path(suite)
    return str(path.absolute()) if path.exists() else suite
