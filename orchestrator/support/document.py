"""Documents of ours, that anybody may have written: read as one of our dataclasses or refused.

The schema is the dataclass: its annotations say the types, `Annotated[int, Between(1, 9)]` says the
range. Whoever adds a field has added it to the schema. Needs nothing but the standard library, so
that a bundle can be loaded where only torch and timm are installed.
"""

import functools
import math
import re
import types
import typing
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

from orchestrator.support.did_you_mean import unknown

Document = TypeVar("Document")

INT64 = 2**63
MOST_SEED = 2**32 - 1
"""The largest seed of a trial: what numpy takes, and torch also after augmentation has multiplied
it."""
MOST_CHARACTERS = 10_000
"""The longest text: paths have 4,096 at most."""
MOST_ENTRIES = 1_000_000
"""The longest list: the classes of the largest data set are fewer."""
MOST_BYTES_OF_A_NAME = 255
"""The longest name of a file on all usual disks."""


class DocumentError(ValueError):
    """What is wrong with a document, behind the place where it is wrong."""


@runtime_checkable
class Check(Protocol):
    """Stands in an annotation beside the type, perhaps among notes for other readers."""

    def complaint(self, value: Any) -> str | None:
        """What was expected, if `value`, which has the type, is not it."""
        ...


@dataclass(frozen=True)
class Between:
    """A number with both bounds allowed."""

    low: float
    high: float

    def complaint(self, value: Any) -> str | None:
        if self.low <= value <= self.high:
            return None
        return f"a number from {self.low:,} to {self.high:,}"


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def complaint(self, value: Any) -> str | None:
        return None if value in self.words else f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Sha256:
    """A digest as we write it. It stands in names of files."""

    def complaint(self, value: Any) -> str | None:
        return None if _SHA256.fullmatch(value) else "64 digits of a sha256"


@dataclass(frozen=True)
class Name:
    """One that stands in the name of a file or folder, and in lines and tables."""

    def complaint(self, value: Any) -> str | None:
        reason = why_no_name(value)
        return reason and f"a name ({reason})"


@dataclass(frozen=True)
class Entries:
    """How many entries a list or mapping has."""

    least: int

    def complaint(self, value: Any) -> str | None:
        return None if len(value) >= self.least else f"at least {self.least} entries"


@dataclass(frozen=True)
class OneOfKinds:
    """One of several dataclasses, told apart by the entry `name`, which is a field of each."""

    kinds: Mapping[str, type]


def why_no_name(text: str) -> str | None:
    """Why no file and no folder of ours may be called so; None if it may."""
    if not text.strip():
        return "it is empty"
    if text in (".", ".."):
        return "it leads to another folder"
    if "/" in text:
        return "it holds a slash"
    if any(is_hidden(letter) for letter in text):
        return "it holds characters that cannot be seen"
    if len(text.encode()) > MOST_BYTES_OF_A_NAME:
        return f"it is longer than {MOST_BYTES_OF_A_NAME} bytes"
    return None


def is_hidden(letter: str) -> bool:
    """Whether a character steers a terminal or the order of reading, and so shows something else.

    Joiners, which several scripts need inside of words, are not meant.
    """
    kind = unicodedata.category(letter)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and letter not in "\u200c\u200d")


def is_number(value: Any) -> bool:
    """Whether it counts or measures something; true and false do not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_as(kind: type[Document], document: Any, *, source: str) -> Document:
    """The `kind` that a document of lists and mappings describes.

    ValueError `SOURCE: trial.config.lr: expected ..., found ...`: of an unknown key, a missing one,
    a value of another type or out of its range.
    """
    try:
        return _read_dataclass(kind, document, ())
    except DocumentError as error:
        raise ValueError(f"{source}: {error}") from None


def read_field(kind: type, name: str, value: Any, *, called: str) -> Any:
    """A value as the field `name` of the dataclass `kind` takes it; ValueError begins with what
    the user calls it."""
    try:
        return _read(_hints(kind)[name], value, (called,))
    except DocumentError as error:
        raise ValueError(str(error)) from None


def shown(value: Any) -> str:
    """A value as an error may show it."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


Place = tuple[str, ...]


def _read_dataclass(kind: type[Document], document: Any, place: Place) -> Document:
    if not isinstance(document, Mapping):
        raise _wrong(place, "names with values", document)
    known = {f.name: f for f in fields(kind) if f.init}  # type: ignore[arg-type]
    for key in document:
        if key not in known:
            raise DocumentError(f"{_at(place)}{unknown('key', _text_of(key), known)}")
    hints = _hints(kind)
    values = {}
    for name, field in known.items():
        if name in document:
            values[name] = _read(hints[name], document[name], (*place, name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DocumentError(f"{_at((*place, name))}is missing")
    try:
        return kind(**values)
    except ValueError as error:  # what only the values together can tell
        raise DocumentError(f"{_at(place)}{error}") from error


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _read(annotation: Any, value: Any, place: Place) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner, *checks = arguments
        if isinstance(checks[0], OneOfKinds):
            return _read_kind(checks[0].kinds, value, place)
        value = _read(inner, value, place)
        for check in (note for note in checks if isinstance(note, Check)):
            expected = check.complaint(value)
            if expected:
                raise _wrong(place, expected, value)
        return value
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, value, place)
    if origin is tuple:
        return _read_tuple(arguments, value, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _read_mapping(arguments, value, place)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _read_tuple((*arguments, ...), value, place)
    if annotation is Any:
        return value
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _read_dataclass(annotation, value, place)
    return _read_plain(annotation, value, place)


def _read_kind(kinds: Mapping[str, type], value: Any, place: Place) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(place, "names with values", value)
    if "name" not in value:
        raise DocumentError(f"{_at((*place, 'name'))}is missing")
    name = _read(Annotated[str, OneOf(tuple(kinds))], value["name"], (*place, "name"))
    others = {key: one for key, one in value.items() if key != "name"}
    return _read_dataclass(kinds[name], others, place)


def _read_union(options: Sequence[Any], value: Any, place: Place) -> Any:
    if value is None and types.NoneType in options:
        return None
    others = [option for option in options if option is not types.NoneType]
    for option in others[:-1]:
        try:
            return _read(option, value, place)
        except DocumentError:
            continue
    if len(others) == 1:
        return _read(others[0], value, place)
    try:
        return _read(others[-1], value, place)
    except DocumentError:
        expected = " or ".join(_WORDS.get(option, str(option)) for option in options)
        raise _wrong(place, expected, value) from None


def _read_tuple(arguments: Sequence[Any], value: Any, place: Place) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(place, "a list", value)
    if arguments[-1] is Ellipsis:
        if len(value) > MOST_ENTRIES:
            raise _wrong(place, f"at most {MOST_ENTRIES:,} entries", value)
        kinds = [arguments[0]] * len(value)
    elif len(value) == len(arguments):
        kinds = arguments
    else:
        raise _wrong(place, f"a list of {len(arguments)}", value)
    return tuple(
        _read(kind, one, (*place, str(index)))
        for index, (kind, one) in enumerate(zip(kinds, value, strict=True))
    )


def _read_mapping(arguments: Sequence[Any], value: Any, place: Place) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(place, "names with values", value)
    of_key, of_value = arguments
    read = {}
    for key, one in value.items():
        if of_key is int and isinstance(key, str) and _WHOLE.fullmatch(key):
            key = int(key)  # JSON has no other keys than texts
        name = _read(of_key, key, (*place, _text_of(key)))
        read[name] = _read(of_value, one, (*place, _text_of(key)))
    return read


def _read_plain(kind: Any, value: Any, place: Place) -> Any:
    """A bool is no number here, and a whole number will do for one with a fraction."""
    if kind is float and type(value) is int:
        if abs(value) >= 2**1023:
            raise _wrong(place, "a finite number", value)
        return value
    if type(value) is not kind:
        raise _wrong(place, _WORDS.get(kind, str(kind)), value)
    if kind is float and not math.isfinite(value):
        raise _wrong(place, "a finite number", value)
    if kind is int and not -INT64 <= value < INT64:
        raise _wrong(place, "a whole number of 64 bits", value)
    if kind is str:
        if len(value) > MOST_CHARACTERS:
            raise _wrong(place, f"at most {MOST_CHARACTERS:,} characters", value)
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _wrong(place, "text", value)
    return value


_SHA256 = re.compile("[0-9a-f]{64}")
_WHOLE = re.compile(r"-?[0-9]{1,18}")

_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    types.NoneType: "null",
}


def _wrong(place: Place, expected: str, found: Any) -> DocumentError:
    return DocumentError(f"{_at(place)}expected {expected}, found {shown(found)}")


def _at(place: Place) -> str:
    return f"{'.'.join(place)}: " if place else ""


def _text_of(key: Any) -> str:
    return key if isinstance(key, str) and len(key) <= 60 else shown(key)
