"""A few configurations of a search space that take as long as its others: by chance, spread by
size."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import optuna

from methods.recipe import Recipe
from orchestrator.plan.space import SearchSpace, Value, build
from orchestrator.training.config import num_epochs

NUM_DRAWN = 99
OF_A_STEP = ("batch_size", "optimizer", "drop_last", "readout")
"""What a step takes depends on these of a recipe, and on all that a method says itself."""


@dataclass(frozen=True, kw_only=True)
class TypicalConfigs:
    """What was drawn of a space."""

    configs: tuple[Mapping[str, Value], ...]
    """Each for as large a share of what the space draws: the middle one by size, then others to
    its left and right."""
    epochs: int
    """Of a trial that is not stopped; the mean, where that is searched."""


def typical_configs(space: SearchSpace, count: int, *, seed: int) -> TypicalConfigs:
    """So many configurations, an odd number; equal where all that the space draws takes as long."""
    assert count % 2, "there is a middle"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = [space.draw(study.ask()) for _ in range(NUM_DRAWN)]
    source = f"space {space.name}"
    epochs = sum(num_epochs(space.method, config, source=source) for config in drawn)
    by_size = sorted(drawn, key=lambda config: _size(space, config))
    places = sorted(range(count), key=lambda place: abs(place - count // 2))
    chosen = [by_size[(2 * place + 1) * NUM_DRAWN // (2 * count)] for place in places]
    by_step: dict[str, Mapping[str, Value]] = {}
    for config in chosen:
        by_step.setdefault(str(_of_a_step(config)), config)
    return TypicalConfigs(
        configs=tuple(by_step[str(_of_a_step(config))] for config in chosen),
        epochs=round(epochs / NUM_DRAWN),
    )


def _size(space: SearchSpace, config: Mapping[str, Value]) -> tuple[Any, ...]:
    method, recipe = build(space.method, config, source=f"space {space.name}")
    return (method.length or 0, str(_of_a_step(config)), recipe.batch_size)


def _of_a_step(config: Mapping[str, Value]) -> dict[str, Value]:
    recipe = {field.name for field in fields(Recipe)} - set(OF_A_STEP)
    return {name: value for name, value in config.items() if name not in recipe}
