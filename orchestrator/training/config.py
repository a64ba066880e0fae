"""A configuration: values for the fields of a method and of its recipe.

Needs `methods` alone, so that a bundle can be loaded where nothing of a sweep is installed.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import orchestrator.training.own_methods  # noqa: F401  # METHODS knows those of installed packages
from methods import METHODS
from methods.catalogue import declaration
from methods.recipe import Recipe
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import MOST_SEED, Between, Name, shown

Value = None | bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One configuration, complete: with the plan's backbone and a task's images it can run."""

    study: Annotated[str, Name()]
    task: Annotated[str, Name()]
    number: Annotated[int, Between(0, 10**9)]
    method: str
    config: Mapping[str, Value]
    """Values for fields of the method and of its recipe; what is absent has its default."""
    seed: Annotated[int, Between(0, MOST_SEED)]


def hyperparameters(method: str) -> dict[str, Any]:
    """Every name a space of this method may use, with its type: the method's and the recipe's."""
    return {**declaration(method).types, **{field.name: field.type for field in fields(Recipe)}}


def check_types(method: str, config: Mapping[str, Value], *, source: str) -> None:
    """ValueError names `source`, if a name is none of the method's or a value of another type."""
    known = hyperparameters(method)
    for name, value in config.items():
        if name not in known:
            raise ValueError(f"{source}: {unknown(f'{method} hyper-parameter', name, known)}")
        check_type(name, value, known[name], source)


def check_type(name: str, value: Value, annotation: Any, source: str) -> None:
    """ValueError if a value is not what the annotation says; a whole number will do for float."""
    allowed = _plain_types(annotation)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return
    if allowed and type(value) not in allowed:
        expected = " or ".join(t.__name__.replace("NoneType", "null") for t in allowed)
        raise ValueError(f"{source}: {name}: expected {expected}, found {shown(value)}")


def _plain_types(annotation: Any) -> tuple[type, ...]:
    """The built-in types an annotation allows; empty if it says something else."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return tuple(t for arg in typing.get_args(annotation) for t in _plain_types(arg))
    if origin is typing.Literal:
        return tuple({type(arg) for arg in typing.get_args(annotation)})
    if annotation in (bool, int, float, str, types.NoneType):
        return (annotation,)
    return ()


def split_config(method: str, config: Mapping[str, Value]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A drawn configuration as (fields of the method, overrides of its recipe)."""
    own = declaration(method).types
    return (
        {k: v for k, v in config.items() if k in own},
        {k: v for k, v in config.items() if k not in own},
    )


def check_recipe(method: str, config: Mapping[str, Value], *, source: str) -> None:
    """ValueError names `source`, if the recipe refuses its share of `config`; torch is not needed.

    What the method refuses of its own share, `build` says.
    """
    _, overrides = split_config(method, config)
    try:
        replace(declaration(method).recipe, **overrides)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error


def num_epochs(method: str, config: Mapping[str, Value], *, source: str) -> int:
    """How many a configuration is planned for. Of a method of this package none depends on values
    of its own (tests/test_methods_contract.py), so that a report needs no torch."""
    if method in METHODS.shipped:
        return config.get("epochs", declaration(method).recipe.epochs)  # type: ignore[return-value]
    return build(method, config, source=source)[1].epochs


def build(method: str, config: Mapping[str, Value], *, source: str) -> tuple[Any, Recipe]:
    """The method and its recipe with the values of `config`; ValueError names `source`."""
    own, overrides = split_config(method, config)
    try:
        built = METHODS[method](**own)
        return built, replace(built.recipe(), **overrides)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error
