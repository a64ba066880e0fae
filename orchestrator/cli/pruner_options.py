"""Options of `sweep` that belong to its pruner: one for every field of one, help included."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

from orchestrator.cli.fields import option_like
from orchestrator.cli.typed import from_text
from orchestrator.plan.pruners.options import pruner_options
from orchestrator.support.options import Field


def with_pruner_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options behind its own; it gets those that were given as
    `pruner_options`."""
    fields = {option.name: option.field for option in pruner_options()}
    parameters = [*inspect.signature(command).parameters.values()]
    parameters += map(_parameter, fields.values())

    @functools.wraps(command)
    def run(**given: Any) -> None:
        typed = {name: given.pop(name) for name in fields}
        chosen = {
            name: from_text(fields[name], value)
            for name, value in typed.items()
            if value is not None
        }
        command(**given, pruner_options=chosen)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _parameter(field: Field) -> inspect.Parameter:
    kind = bool if field.type is bool else str
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind | None, option_like(field)],
        default=None,
    )
