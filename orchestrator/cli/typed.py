"""From what is typed to values; a refusal shows what was found and what would work."""

import typing
from typing import Any

from orchestrator.support.options import KIND_WORDS, Field, names_in


def from_text(field: Field, typed: Any) -> Any:
    """The text of an option as the value that its field takes; what is no text stays as it is."""
    if isinstance(typed, list) and typing.get_args(field.type) == (int,):
        expected = f"{field.flag}: expected numbers with commas"
        return [_number(int, name, expected) for text in typed for name in names_in(text)]
    if not isinstance(typed, str):
        return typed
    if field.type in (int, float) and not field.choices:
        return _number(field.type, typed, f"{field.flag}: expected {KIND_WORDS[field.type]}")
    return typed


def _number(kind: type, text: str, expected: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{expected}, found {text!r}") from None
