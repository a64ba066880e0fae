"""Values of a space that fit each by itself, but not together: a trial that draws both fails."""

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import torch
from torch import nn

from methods.catalogue import declaration
from methods.method import tuned_dtype
from methods.sharing import share
from orchestrator.plan.space import Dimension, SearchSpace, Value, extremes
from orchestrator.support.shown_values import value_text
from orchestrator.training.config import build


def check_drawn_together(space: SearchSpace, vit: nn.Module, images: Any) -> None:
    """ValueError for two values of the method's own names that may be drawn together and must not.

    `images` is what the method has kept of some (None: it looks at none).
    """
    own = [d for d in space.dimensions if d.name in declaration(space.method).types]
    if len(own) < 2:
        return
    shared = share(vit, set(), tuned_dtype(vit)).eval()
    for one, other in combinations(own, 2):
        for drawn in _drawn_together(space, one, other):
            names = " with ".join(f"{d.name} {value_text(drawn[d.name])}" for d in (one, other))
            source = f"space {space.name}: {names}"
            method, _ = build(space.method, drawn, source=source)
            try:
                method.check_room(vit)
                method.without_images().tuning(shared, torch.Generator(), images)
            except ValueError as error:
                raise ValueError(f"{source}: {error} (`when` keeps values apart)") from error


def _drawn_together(
    space: SearchSpace, one: Dimension, other: Dimension
) -> Iterator[dict[str, Value]]:
    """Fixed values, and those of both that may stand together, with what they ask of others."""
    for values in product(extremes(one.distribution), extremes(other.distribution)):
        drawn = {**space.fixed, one.name: values[0], other.name: values[1]}
        for dimension in reversed(space.dimensions):  # `when` names lines above
            if dimension.name in drawn:
                asked = {name: allowed[0] for name, allowed in dimension.when.items()}
                drawn = {**asked, **drawn}
        if all(d.applies(drawn) for d in space.dimensions if d.name in drawn):
            yield drawn
