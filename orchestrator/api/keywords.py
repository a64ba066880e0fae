"""Methods whose keywords are the fields of a request: the options of a command, once for both."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from orchestrator.support.did_you_mean import unknown
from orchestrator.support.options import Field, check_options, fields_of, from_environment

P = ParamSpec("P")
R = TypeVar("R")


def takes(
    request: Callable[P, Any],
) -> Callable[[Callable[[Any, Any], R]], Callable[Concatenate[Any, P], R]]:
    """The method called with the fields of `request`, a dataclass, as keywords.

    Signature and documentation of the method name every one of them. ValueError where a value is
    none that the option allows, TypeError where a keyword is none.
    """
    kind = typing.cast(type, request)

    def decorated(method: Callable[[Any, Any], R]) -> Callable[Concatenate[Any, P], R]:
        @functools.wraps(method)
        def call(self: Any, /, *positional: Any, **keywords: Any) -> R:
            return method(self, request_from(kind, positional, keywords))

        first, _ = inspect.signature(method).parameters.values()
        options = [_parameter(field) for field in fields_of(kind)]
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [first, *options], return_annotation=inspect.signature(method).return_annotation
        )
        call.__doc__ = f"{inspect.getdoc(method)}\n\n{_documentation(kind)}"
        return call

    return decorated


def request_from(kind: type, positional: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """A request with checked values; those that are not given are asked of the environment."""
    fields = {field.name: field for field in fields_of(kind)}
    first = [name for name, field in fields.items() if field.option.positional]
    if len(positional) > len(first):
        raise TypeError(f"{len(positional)} values without a name, of at most {len(first)}")
    given = {**dict(zip(first, positional, strict=False)), **keywords}
    known = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            raise TypeError(unknown("keyword", name, known))
    converted = {
        name: _converted(fields[name], value) if name in fields else value
        for name, value in from_environment(kind, given).items()
    }
    request = kind(**converted)
    check_options(request)
    return request


def _converted(field: Field, value: Any) -> Any:
    """A path given as a text, and a list of one given as what is in it."""
    if field.type is Path and isinstance(value, str):
        return Path(value).expanduser()
    if field.type is str and isinstance(value, Path):
        return str(value)
    if typing.get_origin(field.type) is Sequence and isinstance(value, str | Path):
        text = str(value)
        return [part.strip() for part in text.split(",")] if field.option.listed else [text]
    return value


def _parameter(field: Field) -> inspect.Parameter:
    positional = field.option.positional
    return inspect.Parameter(
        field.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY,
        annotation=field.kind,
        default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
    )


def _documentation(kind: type) -> str:
    lines = [f"    {field.name}: {field.option.help}" for field in fields_of(kind)]
    return "\n".join(["Keywords:", *lines])
