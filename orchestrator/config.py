"""A configuration: values for the fields of a method and of its recipe.

Needs `methods` alone, so that a bundle can be loaded where nothing of a sweep is installed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from methods import METHODS
from methods.recipe import Recipe

Value = None | bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One configuration, complete: with the plan's backbone and a task's images it can run."""

    study: str
    task: str
    number: int
    method: str
    config: Mapping[str, Value]
    """Values for fields of the method and of its recipe; what is absent has its default."""
    seed: int


def hyperparameters(method: str) -> dict[str, Any]:
    """Every name a space of this method may use, with its type: the method's and the recipe's."""
    return {f.name: f.type for cls in (METHODS[method], Recipe) for f in fields(cls) if f.init}


def split_config(method: str, config: Mapping[str, Value]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A drawn configuration as (fields of the method, overrides of its recipe)."""
    own = {f.name for f in fields(METHODS[method])}
    return (
        {k: v for k, v in config.items() if k in own},
        {k: v for k, v in config.items() if k not in own},
    )


def build(method: str, config: Mapping[str, Value], *, source: str) -> tuple[Any, Recipe]:
    """The method and its recipe with the values of `config`; ValueError names `source`."""
    own, overrides = split_config(method, config)
    try:
        built = METHODS[method](**own)
        return built, replace(built.recipe(), **overrides)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error
