"""Published test accuracies, for one backbone and one pretraining at a time.

`published_results.csv` has a line per number with its source. A line whose number should not be
leaned on (re-run by others, best test epoch, secondary source, ...) says why under `doubt`.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from methods.catalogue import declaration
from orchestrator.data.suites import official_task
from orchestrator.plan.plan import BackbonePlan, SweepPlan
from orchestrator.plan.space import SearchSpace, Value, default_of
from orchestrator.training.objective import TOP1

PUBLISHED_IMAGE_SIZE = 224

DAGGER = "†"
"""Behind a number with a doubt."""

PUBLISHED_METRIC = TOP1.name
"""The metric of all numbers in the file: the protocols of VTAB-1k and FGVC."""

ARCHITECTURES = {
    "vit_small_patch16": "ViT-S/16",
    "vit_base_patch16": "ViT-B/16",
    "vit_large_patch16": "ViT-L/16",
    "swin_base_patch4_window7": "Swin-B",
}


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """One number of one table."""

    method: str
    backbone: str
    pretraining: str
    benchmark: str
    task: str
    """A task, or mean_19tasks, mean_3groups, mean_natural7, ... as printed."""
    accuracy: float
    """On the test images, in [0, 1]."""
    source: str
    doubt: str
    """Why the number should not be leaned on; empty: no reason known."""


def published(
    method: str, backbone: str, pretraining: str, task: str, *, accept_doubtful: bool = True
) -> PublishedResult | None:
    """The number of exactly this backbone and pretraining; one without doubt goes first."""
    rows = _index().get((method, backbone, pretraining, task), ())
    return next((row for row in rows if accept_doubtful or not row.doubt), None)


def published_method(space: SearchSpace) -> str | None:
    """What papers call the method of a space; None where they do not know it, or it varies."""
    searched = {dimension.name for dimension in space.dimensions}
    for name, values in declaration(space.method).published_as.items():
        if all(key not in searched and _value(space, key) == one for key, one in values.items()):
            return name
    return None


def published_backbone(backbone: BackbonePlan) -> tuple[str, str] | str:
    """Backbone and pretraining in the words of the tables, or why there is no such table."""
    architecture, _, pretraining = backbone.name.partition(".")
    known = ARCHITECTURES.get(re.sub(r"_\d+$", "", architecture))
    if known is None:
        return f"no published numbers for the backbone {backbone.name}"
    if not any(key[1:3] == (known, pretraining) for key in _index()):
        return (
            f"no published numbers for {known} with the pretraining {pretraining or 'unknown'!r} "
            "(the part of the backbone's name behind the dot)"
        )
    if backbone.image_size != PUBLISHED_IMAGE_SIZE:
        return (
            f"published numbers are for images of {PUBLISHED_IMAGE_SIZE} pixels, these have "
            f"{backbone.image_size}"
        )
    return known, pretraining


def is_official(plan: SweepPlan, task: str) -> bool:
    """Whether numbers of other people for a task of this name are about the same classes.

    Not so for what is read in a form of its own: all of DTD is not the DTD of VTAB-1k.
    """
    found = plan.task(task)
    official = official_task(task)
    return official is not None and official.num_classes == found.num_classes and not found.read_as


def _value(space: SearchSpace, key: str) -> Value:
    return space.fixed[key] if key in space.fixed else default_of(space.method, key)


@cache
def _index() -> Mapping[tuple[str, str, str, str], list[PublishedResult]]:
    """By method, backbone, pretraining and task; what carries no doubt first."""
    found: dict[tuple[str, str, str, str], list[PublishedResult]] = {}
    path = resources.files("orchestrator.report") / "published_results.csv"
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        percent = float(row.pop("accuracy_percent"))
        result = PublishedResult(accuracy=round(percent / 100, 6), **row)
        key = (result.method, result.backbone, result.pretraining, result.task)
        found.setdefault(key, []).append(result)
    return {key: sorted(rows, key=lambda row: bool(row.doubt)) for key, rows in found.items()}
