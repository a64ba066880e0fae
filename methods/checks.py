"""Checks of hyper-parameters: every method and the recipe refuse nonsense in the same words."""

import difflib
from collections.abc import Collection


def check_choice(owner: object, name: str, choices: Collection[str]) -> None:
    """The field `name` of `owner` is one of `choices`."""
    value = getattr(owner, name)
    if value in choices:
        return
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(choices)}"
    raise ValueError(f"{type(owner).__name__}: {name}={value!r} is unknown; {hint}")


def check_whole(owner: object, name: str, low: int, *, optional: bool = False) -> None:
    """The field `name` of `owner` is a whole number, at least `low`; or None where `optional`."""
    value = getattr(owner, name)
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(
            f"{type(owner).__name__}: {name}={value!r} must be a whole number, at least {low}"
            + (", or None" if optional else "")
        )


def check_number(
    owner: object,
    name: str,
    low: float,
    high: float = float("inf"),
    *,
    above_low: bool = False,
    below_high: bool = False,
    optional: bool = False,
) -> None:
    """The field `name` of `owner` lies in [low, high]; the bounds count unless excluded."""
    value = getattr(owner, name)
    if value is None and optional:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
        or (above_low and value == low)
        or (below_high and value == high)
        or value in (float("inf"), float("-inf"))
    ):
        left = "(" if above_low else "["
        right = ")" if below_high or high == float("inf") else "]"
        bounds = f"{left}{low}, {high}{right}"
        raise ValueError(
            f"{type(owner).__name__}: {name}={value!r} must be a number in {bounds}"
            + (" or None" if optional else "")
        )


def check_flag(owner: object, name: str) -> None:
    """The field `name` of `owner` is true or false, not something that only looks so."""
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise ValueError(f"{type(owner).__name__}: {name}={value!r} must be true or false")
