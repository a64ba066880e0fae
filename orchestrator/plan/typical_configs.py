"""A few configurations that take as long as those that the studies of a space will try: their
start points, which are known, and others by chance, spread by size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import optuna

from methods.recipe import Recipe
from orchestrator.plan.plan import StudyPlan
from orchestrator.plan.space import SearchSpace, Value, build
from orchestrator.plan.start_points import StartingAt
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


def typical_configs(
    space: SearchSpace, studies: Sequence[StudyPlan], count: int, *, seed: int
) -> TypicalConfigs:
    """So many configurations, an odd number, of the studies of a space; equal where all that it
    draws takes as long."""
    assert count % 2, "there is a middle"
    study = optuna.create_study(sampler=(by_chance := optuna.samplers.RandomSampler(seed=seed)))
    drawn = []
    for config in _started_with(studies):
        study.sampler = StartingAt(config, by_chance)
        drawn.append(space.draw(study.ask()))
    study.sampler = by_chance
    drawn += [space.draw(study.ask()) for _ in range(NUM_DRAWN - len(drawn))]
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


def _started_with(studies: Sequence[StudyPlan]) -> list[Mapping[str, Value]]:
    """Start points, as large a share of all that is drawn as they are of the studies' trials."""
    points = [point.config for study in studies for point in study.start_points]
    count = round(NUM_DRAWN * len(points) / sum(study.num_trials for study in studies))
    return [points[place * len(points) // count] for place in range(count)]


def _size(space: SearchSpace, config: Mapping[str, Value]) -> tuple[Any, ...]:
    method, recipe = build(space.method, config, source=f"space {space.name}")
    return (method.length or 0, str(_of_a_step(config)), recipe.batch_size)


def _of_a_step(config: Mapping[str, Value]) -> dict[str, Value]:
    recipe = {field.name for field in fields(Recipe)} - set(OF_A_STEP)
    return {name: value for name, value in config.items() if name not in recipe}
