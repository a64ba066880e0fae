"""Options and exit codes that several commands share, and options that are made from requests."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.plan.request import SweepRequest
from orchestrator.support.options import Field, check_options, fields_of, help_of

INTERRUPTED = 130
SOME_FAILED = 1


def expanded(text: str) -> Path:
    """A path whose ~ no shell has expanded, as in --data=~/images."""
    return Path(text).expanduser()


def _with_its_driver(url: str | None) -> str | None:
    """Asked before anything is planned or started."""
    if not url:
        return None
    from orchestrator.record.database import with_driver

    return with_driver(url)


Folder = Annotated[
    Path,
    typer.Argument(
        help="The folder of a sweep, or with --storage its name: what the storage knows of it "
        "needs no folder."
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="ORCHESTRATOR_STORAGE",
        callback=_with_its_driver,
        help="Database that holds the studies, instead of a file in the folder: "
        "postgresql://host/studies or sqlite:////path/studies.db.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        parser=expanded,
        metavar="PATH",
        help="Where the images are now, if they were moved: the suite's folder, or the one that "
        "it lies in.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        parser=expanded,
        metavar="PATH",
        help="Where the backbone's weights are now, if they were moved.",
    ),
]
SplitFractions = Annotated[str | None, typer.Option("--split", help=help_of(SweepRequest, "split"))]
SplitSeed = Annotated[int, typer.Option(help=help_of(SweepRequest, "split_seed"))]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs, not a table.")]


def with_requests(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of a dataclass in the place of each parameter that is one."""
    requests: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if dataclasses.is_dataclass(parameter.annotation):
            requests[parameter.name] = typing.cast(type, parameter.annotation)
            parameters += map(_parameter, _shown(requests[parameter.name]))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, request in requests.items():
            values = {f.name: _value(f, given.pop(f.name)) for f in _shown(request)}
            given[name] = request(**values)
            check_options(given[name])
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _shown(request: type) -> list[Field]:
    return [field for field in fields_of(request) if field.option.in_commands]


def _parameter(field: Field) -> inspect.Parameter:
    option, kind = field.option, field.type
    about: dict[str, Any] = {"help": option.help, "envvar": option.envvar}
    is_list = typing.get_origin(kind) is Sequence and not option.listed
    if kind is Path:
        about |= {"parser": expanded, "metavar": "PATH"}
    elif is_list:
        kind = list[str]
    elif option.listed or field.choices:
        kind = str
    if option.metavar:
        about["metavar"] = option.metavar
    if option.positional:
        shown = typer.Argument(**about)
    else:
        names = [name for name in (option.flag, option.short) if name]
        shown = typer.Option(*names, **about)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind | None if field.is_optional else kind, shown],
        default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
    )


def _value(field: Field, given: Any) -> Any:
    if not field.option.listed or given is None:
        return given
    names = names_in(given)
    if typing.get_args(field.type) != (int,):
        return names
    try:
        return [int(name) for name in given.split(",")]
    except ValueError as error:
        expected = f"{field.flag}: expected numbers with commas, found {given!r}"
        raise ValueError(expected) from error


def names_in(text: str | None) -> Sequence[str] | None:
    """`"a, b"` as a list; None where the option is not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
