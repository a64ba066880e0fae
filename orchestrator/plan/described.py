"""A plan as it is said before anything starts: what will be done, in aligned lines."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from orchestrator.data.suites import Suite
from orchestrator.data.task import Task
from orchestrator.plan.allocation import GAIN
from orchestrator.plan.costs import Also
from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.pruners.decisions import decisions
from orchestrator.plan.space import SearchSpace, Value, build, extremes
from orchestrator.plan.start_points import OF_SWEEP
from orchestrator.support.aligned import aligned
from orchestrator.support.counted import counted

FEW = 5
"""So many tasks are told one by one; of more the ranges."""


def plan_lines(plan: SweepPlan, suite: Suite, *, slots: str) -> list[str]:
    """What the sweep will do, readable on 80 columns; `slots` are the machines that do it."""
    facts = [
        ("studies", [_studies(plan)]),
        ("search", [f"sampler {plan.sampler}, seed {plan.seed}", *_starts(plan)]),
        *([("also", [_also(plan.also)])] if plan.also else []),
        ("pruner", _pruning(plan)),
        ("training", _training(plan)),
        ("tasks", _tasks(suite)),
        ("measured", [_measured(plan)]),
        ("images", _images(plan)),
        ("backbone", [_backbone(plan), *plan.backbone.sources()]),
        ("computing", [_computing(plan)]),
    ]
    return [
        f"plan: {counted(len(plan.studies), 'study')}, {counted(plan.num_trials, 'trial')} "
        f"on {slots}",
        *aligned(facts),
    ]


def _studies(plan: SweepPlan) -> str:
    trials = _by_space({s.space: f"{counted(s.num_trials, 'trial')} each" for s in plan.studies})
    if plan.allocation == GAIN:
        trials = [f"{text} on average, shared by what more of them gain" for text in trials]
    return (
        f"{counted(len(plan.tasks), 'task')} x {counted(len(plan.spaces), 'search space')} "
        f"({', '.join(plan.spaces)}); {'; '.join(trials)}"
    )


def _starts(plan: SweepPlan) -> list[str]:
    """What studies try before the sampler proposes anything; what each takes of older sweeps was
    said before."""
    told: dict[str, str] = {}
    for study in plan.studies:
        origins = Counter(
            point.origin for point in study.start_points if OF_SWEEP not in point.origin
        )
        told[study.space] = "; ".join(f"{n} of {origin}" for origin, n in origins.items())
    lines = [f"first: {text}" for text in _by_space({s: t for s, t in told.items() if t}, told)]
    if plan.share_winners:
        lines.append("every third trial: what did best on the other tasks, if anything")
    return lines


def _also(also: Also) -> str:
    return f"minimize {also.cost.words} ({also.minimize}); the pruner looks at the score alone"


def _pruning(plan: SweepPlan) -> list[str]:
    told = {}
    for study in plan.studies:
        epochs = max(_values(plan.parsed_spaces[study.space], "epochs"))
        told[study.space] = decisions(
            plan.pruner,
            epochs=epochs,
            num_trials=study.num_trials,
            eval_every=plan.engine.eval_every,
        )
    return [f"{plan.pruner.name}: {text}" for text in _by_space(told)]


def _training(plan: SweepPlan) -> list[str]:
    told = {}
    for name, space in plan.parsed_spaces.items():
        epochs, batches = _values(space, "epochs"), _values(space, "batch_size")
        several = f"{' or '.join(map(str, epochs))} epochs"
        told[name] = (
            f"{counted(epochs[0], 'epoch', 'epochs') if len(epochs) == 1 else several}, "
            f"batch size {' or '.join(map(str, batches))}"
        )
    lines = _by_space(told)
    if plan.engine.augment:
        lines.append("on random crops and mirror images")
    if plan.engine.eval_every > 1:
        lines.append(f"validated after every {plan.engine.eval_every} epochs, and where it counts")
    return lines


def _values(space: SearchSpace, name: str) -> list[int]:
    """Of a field of the recipe: the value that all trials have, or those that they may have."""
    for dimension in space.dimensions:
        if dimension.name == name:
            values = extremes(dimension.distribution)
            return sorted(int(value) for value in values if isinstance(value, int | float))
    fixed: Mapping[str, Value] = space.fixed
    return [getattr(build(space.method, fixed, source=space.name)[1], name)]


def _tasks(suite: Suite) -> list[str]:
    if len(suite.tasks) <= FEW:
        return [f"{task.name}: {_sizes([task])}" for task in suite.tasks]
    return [f"{len(suite.tasks)} of {suite.name}: {_sizes(suite.tasks)}"]


def _sizes(tasks: Sequence[Task]) -> str:
    """`10 classes; 1,000 train, 200 val, 597 test images`, of several the smallest and largest."""
    sizes = []
    for split in ("train", "val", "test"):
        found = [len(task.splits[split]) for task in tasks if split in task.splits]
        if found:
            sizes.append(f"{_range(found)} {split}")
        if split == "test" and len(found) < len(tasks):
            missing = len(tasks) - len(found)
            sizes.append("no test" if not found else f"(none in {missing} of them)")
    rules = dict.fromkeys(task.split_rule for task in tasks if task.split_rule)
    split_by_us = f"; split by {', '.join(rules)}" if rules else ""
    classes = _range([task.num_classes for task in tasks])
    images = ", ".join(sizes).replace(", (", " (")
    return f"{classes} classes; images: {images}{split_by_us}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _measured(plan: SweepPlan) -> str:
    by_metric: dict[str, list[str]] = {}
    for task in plan.tasks:
        by_metric.setdefault(f"{task.metric} ({task.objective.words})", []).append(task.name)
    if len(by_metric) == 1:
        return f"{next(iter(by_metric))}, on val"
    return "; ".join(f"{m} of {_first(tasks)}" for m, tasks in by_metric.items()) + "; on val"


def _images(plan: SweepPlan) -> list[str]:
    backbone = plan.backbone
    size = backbone.image_size
    made = {
        "squash": "the whole image, squashed to a square",
        "center_crop": "the center, cut to a square",
    }
    mean, std = (" ".join(f"{v:g}" for v in values) for values in (backbone.mean, backbone.std))
    lines = [
        f"{size} x {size} pixels, {made.get(backbone.resize, backbone.resize)}, "
        f"{backbone.interpolation}",
    ]
    # Where somebody says so, it stands with the backbone and by whom.
    return lines if backbone.normalised_by else [*lines, f"normalized by mean {mean}, std {std}"]


def _backbone(plan: SweepPlan) -> str:
    backbone = plan.backbone
    return (
        f"{backbone.name}: {backbone.num_parameters:,} parameters, sha256 "
        f"{backbone.weights_sha256[:12]}"
    )


def _computing(plan: SweepPlan) -> str:
    engine = plan.engine
    launch = f", steps launched as {engine.launch}" if engine.launch != "eager" else ""
    return f"{engine.precision}, {engine.attention} attention{launch}" + (
        ", deterministic" if engine.deterministic else ""
    )


def _by_space(told: Mapping[str, str], all_spaces: Collection[str] = ()) -> list[str]:
    """What is said of each search space, once where it is the same of all."""
    spaces: dict[str, list[str]] = {}
    for name, text in told.items():
        spaces.setdefault(text, []).append(name)
    if len(spaces) == 1 and len(told) >= len(all_spaces):
        return list(spaces)
    return [f"{text} ({_first(names)})" for text, names in spaces.items()]


def _first(names: Sequence[str]) -> str:
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")
