"""What a user may choose: a field of a request is an option of a command and a keyword in Python.

Default, help, bounds and choices of an option stand with its field and nowhere else:

    eval_every: Annotated[int, Option("Validate after every N epochs.", "Search", at_least=1)] = 1
"""

import dataclasses
import os
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from orchestrator.support.did_you_mean import unknown

Group = Literal[
    "Options", "Data", "Backbone", "Search", "Pruner", "Last stage", "Machine", "Output"
]
"""The headings that the help of a command has, in this order."""


@dataclass(frozen=True)
class Option:
    """How a field is shown and checked; beside its type, in `Annotated`."""

    help: str
    """A sentence for somebody who has never seen the code."""
    group: Group = "Options"
    default: str = ""
    """In words, where it is not a value that the field has: `30; quickstart: 8`."""
    flag: str = ""
    """The flag on the command line; by default the name of the field with dashes."""
    short: str = ""
    choices: Sequence[str] = ()
    """Where they are not known before the program runs; else the type is a `Literal`."""
    names: Callable[[], Sequence[str]] | None = None
    """Some values, for a shell to complete; others are allowed, too."""
    at_least: float | None = None
    at_most: float | None = None
    envvar: str | None = None
    """The environment variable that is read where neither command nor call names a value."""
    metavar: str | None = None
    commas: bool = False
    """Of a list, which is an option given several times: what is given once may be several, too."""
    pairs: bool = False
    """Each of a list is NAME=VALUE; a file and Python may say it as a dictionary."""
    positional: bool = False
    in_commands: bool = True
    """False: commands have something else in its place."""


@dataclass(frozen=True)
class Field:
    """A field of a request that is an option."""

    name: str
    kind: Any
    """Its type, without what is said beside it."""
    default: Any
    """MISSING where a value must be given."""
    option: Option

    @property
    def flag(self) -> str:
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def type(self) -> Any:
        """Without None."""
        parts = [part for part in typing.get_args(self.kind) if part is not NoneType]
        return parts[0] if self.is_optional else self.kind

    @property
    def is_optional(self) -> bool:
        return NoneType in typing.get_args(self.kind)

    @property
    def choices(self) -> Sequence[str]:
        if typing.get_origin(self.type) is typing.Literal:
            return typing.get_args(self.type)
        return self.option.choices

    @property
    def default_text(self) -> str:
        """What holds where nothing is said; empty: nothing does."""
        if self.option.default or self.default in (dataclasses.MISSING, None, {}):
            return self.option.default
        if isinstance(self.default, bool):
            return "" if self.is_plain_flag else "on" if self.default else "off"
        return str(self.default)

    @property
    def is_plain_flag(self) -> bool:
        """It is given or not, and has no opposite."""
        return self.type is bool and bool(self.option.flag)

    @property
    def limits(self) -> str:
        """Choices, range and default, as the help of the option shows them."""
        default, choices = self.default_text, " | ".join(self.choices)
        parts = [
            choices,
            range_text(self.option.at_least, self.option.at_most),
            default and f"default: {default}",
        ]
        if self.option.envvar:
            parts.append(f"environment: {self.option.envvar}")
        return "; ".join(part for part in parts if part)


_FAR = 1_000_000
"""A bound from here on tells nobody anything."""


KIND_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
}
"""What was expected, where something else was found."""


def names_in(text: str) -> list[str]:
    """`"a, b"` as a list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def range_text(least: float | None, most: float | None) -> str:
    """`1 to 20`, or `at least 1`; empty where every number will do."""
    if least is None or abs(least) >= _FAR:
        return ""
    return f"at least {least:,}" if most is None or most >= _FAR else f"{least:,} to {most:,}"


def fields_of(request: type) -> Iterator[Field]:
    """The options of a dataclass; a field without `Option` is for programs alone."""
    hints = typing.get_type_hints(request, include_extras=True)
    for field in dataclasses.fields(request):
        kind, *beside = typing.get_args(hints[field.name]) or (None,)
        option = next((one for one in beside if isinstance(one, Option)), None)
        if option is not None:
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            yield Field(field.name, kind, default, option)


def field_of(request: type, name: str) -> Field:
    """For an option of another command that means the same."""
    return next(field for field in fields_of(request) if field.name == name)


def check_options(request: Any) -> None:
    """ValueError names the option, its value and what would work."""
    for field in fields_of(type(request)):
        check_option(field, getattr(request, field.name))


def check_option(field: Field, value: Any) -> None:
    """The same for one of them."""
    option = field.option
    if value is None:
        return
    if field.choices and value not in field.choices:
        raise ValueError(unknown(f"value of {field.flag}", value, field.choices))
    if option.at_least is not None and not value >= option.at_least:  # as of NaN
        raise ValueError(f"{field.flag} must be at least {option.at_least:,}, found {value:,}")
    if option.at_most is not None and value > option.at_most:
        raise ValueError(f"{field.flag} must be at most {option.at_most:,}, found {value:,}")


def from_environment(request: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, and what the environment names of the rest."""
    named = {
        field.name: os.environ[field.option.envvar]
        for field in fields_of(request)
        if field.option.envvar and os.environ.get(field.option.envvar)
    }
    return {**named, **{name: value for name, value in given.items() if value is not None}}
