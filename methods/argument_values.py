"""What an argument of a backbone may be where it is written down. Needs neither torch nor timm."""

from collections.abc import Mapping
from typing import Any

Value = bool | int | float | str | None | tuple[int | float, ...]

Arguments = Mapping[str, Value]


def as_value(written: Any) -> Value:
    """What was written down, as an argument; ValueError where it can be none."""
    if isinstance(written, list) and written and all(map(_is_number, written)):
        return tuple(written)
    if isinstance(written, bool | int | float | str | None):
        return written
    raise ValueError("not a number, a text, true, false, null or a list of numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
