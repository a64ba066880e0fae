"""Options and exit codes that several commands share, and options that are made from requests."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.api.keywords import request_from
from orchestrator.api.requests import STORAGE
from orchestrator.api.sweep_file import with_file
from orchestrator.cli.fields import option_like, parameter_of
from orchestrator.cli.typed import from_text
from orchestrator.plan.request import SweepRequest
from orchestrator.support.options import Field, field_of, fields_of

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
        metavar="SWEEP",
        help="The folder of a sweep, or with --storage its name: what the storage knows of it "
        "needs no folder.",
    ),
]
Bundle = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE",
        help="A <task>.yaml in best/ or final/ of a sweep, or that `orchestrator export` wrote.",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar=STORAGE.metavar,
        envvar=STORAGE.envvar,
        callback=_with_its_driver,
        help=STORAGE.help,
        show_default=f"default: {STORAGE.default}; environment: {STORAGE.envvar}",
        rich_help_panel=STORAGE.group,
    ),
]
DataRoot = Annotated[Path | None, option_like(field_of(SweepRequest, "data"), parser=expanded)]
"""Where vtab and fgvc lie, for commands that begin with a suite."""
DataOption = Annotated[
    Path | None,
    typer.Option(
        parser=expanded,
        metavar="PATH",
        help="Where the images are now, if they were moved: the suite's folder, or the one that "
        "it lies in.",
        show_default="default: where they were",
        rich_help_panel="Data",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        parser=expanded,
        metavar="PATH",
        help="Where the backbone's weights are now, if they were moved.",
        show_default="default: where they were",
        rich_help_panel="Backbone",
    ),
]
SplitFractions = Annotated[str | None, option_like(field_of(SweepRequest, "split"))]
SplitSeed = Annotated[int, option_like(field_of(SweepRequest, "split_seed"))]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON for programs, not a table.", rich_help_panel="Output"),
]


def with_requests(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of a dataclass in the place of each parameter that is one.

    What is typed becomes a request in the way in which keywords in Python do; where a file stands
    for the suite, it says the rest. Values that the caller has for other fields go with it.
    """
    requests: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if dataclasses.is_dataclass(parameter.annotation):
            requests[parameter.name] = typing.cast(type, parameter.annotation)
            parameters += map(parameter_of, _shown(requests[parameter.name]))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        fields = {one.name: one for request in requests.values() for one in fields_of(request)}
        typed = {key: given.pop(key) for key in list(given) if key in fields}
        values = with_file(
            {
                key: from_text(fields[key], value)
                for key, value in typed.items()
                if value not in (None, [], {})
            }
        )
        for name, request in requests.items():
            known = {one.name for one in dataclasses.fields(request)}
            mine = {key: value for key, value in values.items() if key in known}
            given[name] = request_from(request, (), mine)
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _shown(request: type) -> list[Field]:
    return [field for field in fields_of(request) if field.option.in_commands]
