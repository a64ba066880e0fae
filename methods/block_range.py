"""Which blocks of a backbone have deep prompts: the hyper-parameter `blocks`.

It is a text, `8-11` (the first and the last block, both included, from 0), since a study, its
tables and its importances keep one plain value per hyper-parameter. A pair, `[8, 11]`, is as good
wherever a person writes it. Two numbers, `first_block` and `last_block`, would be drawn apart from
each other by a sampler, often the wrong way round, and have no word for "all".

Blocks in front of the first one are constant for an image: a trial computes them once
(`TunedViT.prefix`), and its steps run only the blocks that are left.
"""

import re
from typing import Any

from methods.checks import LARGEST

NAME = "blocks"
"""The field of a method's dataclass, annotated `str | None`; None: all blocks."""

_TEXT = re.compile(r"(\d{1,6})-(\d{1,6})", re.ASCII)


def as_text(value: Any) -> Any:
    """`8-11` for the pair [8, 11]; anything but a list or tuple as it is.

    ValueError for a list that is no pair of whole numbers from 0 on.
    """
    if not isinstance(value, list | tuple):
        return value
    if len(value) != 2 or not all(type(end) is int and 0 <= end <= LARGEST for end in value):
        raise ValueError(f"expected [first, last], two blocks counted from 0, found {value!r:.60}")
    return f"{value[0]}-{value[1]}"


def check_blocks(method: Any) -> None:
    """The field `blocks` of `method` is None or says where its prompts begin and end.

    A pair becomes the text: of a frozen dataclass, so call it in `__post_init__`.
    """
    kind, value = type(method).__name__, getattr(method, NAME)
    if value is None:
        return
    try:
        text = as_text(value)
    except ValueError as error:
        raise ValueError(f"{kind}: {NAME}: {error}") from error
    if not isinstance(text, str) or not (found := _TEXT.fullmatch(text)):
        raise ValueError(
            f"{kind}: {NAME}={value!r:.60} must be the first and the last block with prompts, from"
            " 0, for example '8-11' or [8, 11]; or None for all"
        )
    first, last = map(int, found.groups())
    if first > last:
        raise ValueError(
            f"{kind}: {NAME}={text!r} ends before it begins; did you mean '{last}-{first}'?"
        )
    object.__setattr__(method, NAME, f"{first}-{last}")  # 08-11 is 8-11


def prompted_blocks(method: Any, depth: int) -> range:
    """The blocks with prompts that `method.blocks` means in a backbone of `depth` blocks.

    Give its start and its last to `Tuning(first_block=, last_block=)`, which leaves the others
    alone; the method's tensors have one entry per block of the range. ValueError beyond the depth.
    """
    text = getattr(method, NAME)
    if text is None:
        return range(depth)
    first, last = map(int, text.split("-"))
    if last >= depth:
        raise ValueError(
            f"{type(method).__name__}: {NAME}={text!r}, but the backbone has {depth} blocks: the"
            f" last one is {depth - 1}"
        )
    return range(first, last + 1)


def refuse_blocks_of_shallow(method: Any) -> None:
    """`blocks` says where deep prompts stand: prompts that stay in the sequence have no such place.

    ValueError where `method.deep` is false and `method.blocks` is not None.
    """
    if not method.deep and getattr(method, NAME) is not None:
        raise ValueError(
            f"{type(method).__name__}: {NAME}={getattr(method, NAME)!r} is for deep prompts; with"
            " deep=False they enter before the first block and stay to the end (in a search space:"
            " `when: {deep: true}`)"
        )
