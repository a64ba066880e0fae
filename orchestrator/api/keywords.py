"""Methods whose keywords are the fields of a request: the options of a command, once for both."""

import dataclasses
import functools
import inspect
import json
import numbers
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from orchestrator.support.did_you_mean import unknown
from orchestrator.support.options import (
    KIND_WORDS,
    Field,
    check_options,
    fields_of,
    from_environment,
    names_in,
)

P = ParamSpec("P")
R = TypeVar("R")


def takes(
    request: Callable[P, Any],
    *,
    before: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Callable[[Callable[[Any, Any], R]], Callable[Concatenate[Any, P], R]]:
    """The method called with the fields of `request`, a dataclass, as keywords.

    Signature and documentation of the method name every one of them. `before` sees what is given
    first, and says what is taken for it. ValueError where a value is
    none that the option allows, TypeError where a keyword is none.
    """
    kind = typing.cast(type, request)

    def decorated(method: Callable[[Any, Any], R]) -> Callable[Concatenate[Any, P], R]:
        @functools.wraps(method)
        def call(self: Any, /, *positional: Any, **keywords: Any) -> R:
            return method(self, request_from(kind, positional, keywords, before=before))

        first, _ = inspect.signature(method).parameters.values()
        options = [_parameter(field) for field in fields_of(kind)]
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [first, *options], return_annotation=inspect.signature(method).return_annotation
        )
        call.__doc__ = f"{inspect.getdoc(method)}\n\n{_documentation(kind)}"
        return call

    return decorated


def request_from(
    kind: type,
    positional: Sequence[Any],
    keywords: Mapping[str, Any],
    *,
    before: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Any:
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
    values = {
        name: converted(fields[name], value) if name in fields else value
        for name, value in from_environment(kind, before(given)).items()
    }
    request = kind(**values)
    check_options(request)
    return request


def converted(field: Field, value: Any) -> Any:
    """As the option has it: numbers of numpy, a path given as a text, a list of one given as what
    is in it; ValueError where it is something else."""
    origin = typing.get_origin(field.type)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{field.name}: expected a dictionary, found {value!r}")
        return value
    if origin is not Sequence:
        kind = str if field.choices else field.type
        return _as_kind(kind, value, f"{field.flag}: expected {KIND_WORDS.get(kind, kind)}")
    if isinstance(value, Mapping) and field.option.pairs:
        value = [f"{name}={_written(one)}" for name, one in value.items()]
    if isinstance(value, Mapping):  # as a list it would be its keys, and the rest be forgotten
        raise ValueError(f"{field.flag}: expected a list, found {value!r}")
    if isinstance(value, str | Path):
        value = [value]
    (kind,) = typing.get_args(field.type)
    if field.option.commas and isinstance(value, Iterable) and not isinstance(value, Mapping):
        value = [part for one in value for part in _one_or_several(one)]
    if kind is object:
        value = list(value) if isinstance(value, Iterable) else [value]
        if not value:
            raise ValueError(
                f"{field.name}: names none, found {value!r}; leave it out for the default"
            )
        return value
    expected = f"{field.flag}: expected a list, each of it {KIND_WORDS[kind]}"
    if not isinstance(value, Iterable):
        raise ValueError(f"{expected}, found {value!r}")
    return [_as_kind(kind, one, expected) for one in value]


def _written(value: Any) -> str:
    """As YAML has it, which reads it again."""
    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _one_or_several(value: Any) -> list[Any]:
    """`"a, b"` is two; the name of a file may have commas."""
    is_several = isinstance(value, str) and "," in value and not Path(value).exists()
    return names_in(value) if is_several else [value]


def _as_kind(kind: type, value: Any, expected: str) -> Any:
    match value:
        case bool() if kind is bool:
            return value
        case numbers.Integral() if kind is int and not isinstance(value, bool):
            return int(value)
        case numbers.Real() if kind is float and not isinstance(value, bool):
            return float(value)
        case str() | Path() if kind is str:
            return str(value)
        case str() | Path() if kind is Path:
            return Path(value).expanduser()
    raise ValueError(f"{expected}, found {value!r}")


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
