"""A sweep planned again: the choices in the plan of another, as keywords.

What was chosen is taken: suite, tasks, search spaces, trials, seeds, split, backbone, sampler,
pruner, and the precision and launch that were measured, so that its numbers can be compared. What
was found on a machine is found again: images, checksums of weights, versions, the share of a GPU.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from methods.hub_names import hub_name
from orchestrator.plan.costs import MINIMIZE
from orchestrator.plan.places import at_places, find_places
from orchestrator.plan.plan import SweepPlan, read_plan
from orchestrator.plan.pruners.options import pruner_options
from orchestrator.plan.space import SearchSpace
from orchestrator.plan.start_points import OF_SWEEP
from orchestrator.training.backbone import BackbonePlan

CHOSEN_BY = "--normalization "
"""How the plan begins to say that the user chose how pixels are normalised."""


def keywords_of_plan(
    document: Mapping[str, Any], path: Path, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Keywords that plan the search of this plan; `given` are those that will go before them."""
    plan = read_plan(document, source=str(path))
    plan = at_places(plan, find_places(path.parent, None, None))
    tasks = given.get("tasks") or [task.name for task in plan.tasks]
    engine, backbone = plan.engine, plan.backbone
    pruner_fields = {option.name for option in pruner_options()}
    told = {
        "suite": plan.suite,
        "data": Path(plan.data_root) if plan.data_root else None,
        "tasks": tasks,
        "methods": [SearchSpace.of(space, name=name) for name, space in plan.spaces.items()],
        "metrics": [f"{task}={metric}" for task, metric in plan.metrics.items() if task in tasks],
        "trials": max(study.num_trials for study in plan.studies),
        "allocation": plan.allocation,
        "epochs": _epochs(plan),
        "seed": plan.seed,
        "split": plan.split and "/".join(f"{100 * part:.12g}" for part in plan.split if part),
        "split_seed": plan.split_rule.seed,
        "backbone": backbone.name,
        "resize": backbone.resize,
        "sampler": plan.sampler,
        "also": plan.also and [f"{MINIMIZE}={plan.also.minimize}"],
        "share_winners": plan.share_winners or None,
        "pruner": plan.pruner.name,
        "pruner_options": {
            name: value for name, value in vars(plan.pruner).items() if name in pruner_fields
        },
        "eval_every": engine.eval_every,
        "frozen_cache": engine.frozen_cache,
        "augment": engine.augment,
        "deterministic": engine.deterministic or None,
        "precision": engine.precision,
        "launch": None if engine.launch == "eager" else engine.launch,  # also that of every CPU
        "again": plan,
    }
    if given.get("backbone", backbone.name) == backbone.name:
        told |= {
            **_network(backbone),
            "image_size": backbone.image_size,
            "normalization": _normalization(plan),
        }
    return {name: value for name, value in told.items() if value is not None}


def _network(backbone: BackbonePlan) -> dict[str, Any]:
    """Where the weights are, and what the network is built with."""
    arguments = [f"{key}={json.dumps(value)}" for key, value in (backbone.arguments or {}).items()]
    told: dict[str, Any] = {"backbone_args": arguments or None}
    of_hub = hub_name(backbone.name)
    if of_hub is None:
        told["weights"] = Path(backbone.weights) if backbone.weights else None
    elif of_hub.source == "local-dir":
        told["backbone"] = f"local-dir:{backbone.weights}"
    return told


def _epochs(plan: SweepPlan) -> int | None:
    """Where all spaces have the same; else each has its own."""
    epochs = {space.fixed.get("epochs") for space in plan.parsed_spaces.values()}
    (same,) = epochs if len(epochs) == 1 else (None,)
    return same if isinstance(same, int) else None


def _normalization(plan: SweepPlan) -> str | None:
    chosen = plan.backbone.normalised_by or ""
    return chosen.removeprefix(CHOSEN_BY) if chosen.startswith(CHOSEN_BY) else None


def told_again(then: SweepPlan, now: SweepPlan) -> Iterator[str]:
    """What is not as it was when the other sweep was planned, and was not chosen otherwise."""
    yield (
        f"planned again: the choices of {then.name}; images, weights, versions and the share of a "
        "GPU are those of now"
    )
    if _warm_started(then) and not _warm_started(now):
        yield "it began with what did best in older sweeps: name them again (--warm-start) to do so"
    old, new = then.backbone, now.backbone
    if old.name == new.name and old.weights_sha256 != new.weights_sha256:
        yield (
            f"the weights of {new.name} are others than then (sha256 {new.weights_sha256[:12]} "
            f"now, {old.weights_sha256[:12]} then)"
        )
    if (old.image_size, old.resize) == (new.image_size, new.resize):
        before = then.fingerprints
        for name, fingerprint in now.fingerprints.items():
            if before.get(name, fingerprint) != fingerprint:
                yield f"task {name}: its images or labels are others than then"
    others = [
        f"{name} {version}, then {then.versions[name]}"
        for name, version in now.versions.items()
        if then.versions.get(name, version) != version
    ]
    if others:
        yield f"other versions than then: {'; '.join(others)}"


def _warm_started(plan: SweepPlan) -> bool:
    return any(OF_SWEEP in point.origin for one in plan.studies for point in one.start_points)
