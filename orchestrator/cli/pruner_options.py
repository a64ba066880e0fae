"""Options of `sweep` that belong to its pruner: one for every field of one, help included."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import typer

from orchestrator.plan.pruners.options import PrunerOption, pruner_options

PrunerOptions = Mapping[str, Any]
NO_OPTIONS: PrunerOptions = MappingProxyType({})


def with_pruner_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options in the place of its parameter `pruner_options`, which gets
    those that were given."""
    options = pruner_options()
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "pruner_options":
            parameters += map(_parameter, options)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        values = {option.name: given.pop(option.name) for option in options}
        chosen = {name: value for name, value in values.items() if value is not None}
        command(**given, pruner_options=chosen)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _parameter(option: PrunerOption) -> inspect.Parameter:
    default = "" if option.default is None else f" Default: {option.default}."
    text = f"{option.help} Of {listed(option.owners, 'and')}.{default}"
    kind = typing.Optional[option.kind]  # noqa: UP045  # the type is known when this runs only
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, typer.Option(option.flag, help=text)],
        default=None,
    )


def listed(names: typing.Sequence[str], joined: str = "or") -> str:
    """`a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} {joined} {last}" if others else last
