"""A field of a request as an option of Typer: spelling, value, subject, limits, completion."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from orchestrator.cli.command import METAVARS
from orchestrator.support.options import Field


def option_like(field: Field, **others: Any) -> Any:
    """Typer's option that says what a field of a request says; `others` as `typer.Option` has
    them."""
    about = _about(field, field.option.envvar)
    return typer.Option(*_names(field), **{**about, **others})


def parameter_of(field: Field) -> inspect.Parameter:
    """None where it is not typed. Values stay texts, which `from_text` reads: it says what it
    found."""
    if field.type is bool:
        kind: Any = bool
    elif typing.get_origin(field.type) is Sequence:
        kind = list[str]
    else:
        kind = str
    if field.option.positional:
        names = field.option.names
        shown = typer.Argument(
            metavar=field.name.upper(),
            help=field.option.help,
            autocompletion=names and completed(names),
        )
        default, annotation = inspect.Parameter.empty, kind
    else:
        # The environment is asked after what is typed, where requests are made.
        shown = typer.Option(*_names(field), **_about(field, None))
        default, annotation = None, kind | None
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[annotation, shown],
        default=default,
    )


def _names(field: Field) -> list[str]:
    return [name for name in (field.option.flag, field.option.short) if name]


def _about(field: Field, envvar: str | None) -> Mapping[str, Any]:
    option = field.option
    names = (lambda: field.choices) if field.choices else option.names
    return {
        "help": option.help,
        "envvar": envvar,
        "metavar": _metavar(field),
        "show_default": field.limits or False,
        "rich_help_panel": option.group,
        "autocompletion": names and completed(names),
    }


def completed(names: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """For Typer, which hands over what stands there so far."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _metavar(field: Field) -> str | None:
    """What stands behind the flag in the help."""
    if field.type is bool:
        return None
    return field.option.metavar or ("NAME" if field.choices else METAVARS.get(field.type, "NAME"))
