"""Checks of hyper-parameters: every method and the recipe refuse nonsense in the same words."""

import difflib
import sys
from collections.abc import Collection

LARGEST = 100_000
"""No count of ours is larger: epochs, images of a batch, prompts, a rank. Beyond it stands a slip
of the keyboard, or somebody who wants the machine to stand still."""

MOST_PROMPTS = 10_000
"""Per block: fifty times what the papers search; of a large ViT they take a gigabyte."""

MOST_WIDTH = 16_384
"""The width of a layer that a method adds, at most: four times the width of the largest ViT."""


def did_you_mean(name: str, known: Collection[str], *, most: int = 1) -> str:
    """A question after what is spelt alike; empty where nothing is.

    The one of `orchestrator`, which knows more of its names, is none of ours to use.
    """
    close = difflib.get_close_matches(name[:60], known, n=most)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def check_choice(owner: object, name: str, choices: Collection[str]) -> None:
    """The field `name` of `owner` is one of `choices`."""
    value = getattr(owner, name)
    if isinstance(value, str) and value in choices:
        return
    hint = did_you_mean(str(value), choices) or f"one of {', '.join(choices)}"
    raise ValueError(f"{type(owner).__name__}: {name}={_short(value)} is unknown; {hint}")


def check_whole(
    owner: object, name: str, low: int, high: int = LARGEST, *, optional: bool = False
) -> None:
    """The field `name` of `owner` is a whole number in [low, high]; or None where `optional`."""
    value = getattr(owner, name)
    if value is None and optional:
        return
    found = f"{type(owner).__name__}: {name}={_short(value)}"
    either = ", or None" if optional else ""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{found} must be a whole number, at least {low}{either}")
    if value > high:
        raise ValueError(f"{found} must be a whole number, at most {high:,}{either}")


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
        or abs(value) > sys.float_info.max
    ):
        left = "(" if above_low else "["
        right = ")" if below_high or high == float("inf") else "]"
        bounds = f"{left}{low}, {high}{right}"
        raise ValueError(
            f"{type(owner).__name__}: {name}={_short(value)} must be a number in {bounds}"
            + (" or None" if optional else "")
        )


def check_flag(owner: object, name: str) -> None:
    """The field `name` of `owner` is true or false, not something that only looks so."""
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise ValueError(f"{type(owner).__name__}: {name}={_short(value)} must be true or false")


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of thousands of digits
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
