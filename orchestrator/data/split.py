"""Splits of our own, where the user made none: by seed and fractions, equal images on one side.

The same files, seed and fractions give the same split, whatever the order of the folder. In every
class the files are ordered by a hash, so that an added file moves few others.
"""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.data.images import ContentHashes
from orchestrator.data.task import DataError, Example

FRACTIONS = (0.6, 0.2, 0.2)
"""The shares of train, val and test in every class, where nothing is split."""
VAL_FRACTION = 0.2
"""The share of train in every class that becomes val, where only val is missing."""

_UNKNOWN_SIZE = -1
"""Of an image that is no file of its own."""

Fractions = tuple[float, float, float]
Examples = tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """What decides a split of our own."""

    seed: int = 0
    fractions: Fractions | None = None
    """The shares of train, val and test, as the user chose them; None: `FRACTIONS`, or
    `VAL_FRACTION`."""
    copies_together: bool = True
    """Exact copies count once and stay on one side; False for splits of older versions."""

    def __post_init__(self) -> None:
        if self.fractions is None:
            return
        if min(self.fractions[:2]) <= 0 or self.fractions[2] < 0:
            raise DataError(f"fractions {self.fractions}: train and val must be above 0")
        if abs(sum(self.fractions) - 1) > 1e-9:
            raise DataError(f"fractions {self.fractions} of train, val and test must sum 1")


DEFAULT_RULE = SplitRule()


def split_rule(seed: int, fractions: str | None) -> SplitRule:
    """The rule that a command's options name; ValueError says what is wrong with them."""
    return SplitRule(
        seed=seed, fractions=None if fractions is None else _parse_fractions(fractions)
    )


def _parse_fractions(text: str) -> Fractions:
    """`60/20/20`, `0.6/0.2/0.2` or, without test, `80/20`; ValueError says what is wrong."""
    parts = [part.strip().removesuffix("%").strip() for part in re.split(r"[/,:]", text)]
    hint = "it is train/val/test in per cent, such as 60/20/20, or train/val, such as 80/20"
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise ValueError(f"--split {text!r} is not made of numbers: {hint}") from None
    if len(numbers) not in (2, 3) or not all(math.isfinite(one) for one in numbers):
        raise ValueError(f"--split {text!r} has {len(numbers)} parts: {hint}")
    total = sum(numbers)
    whole = next((one for one in (1, 100) if abs(total - one) < 1e-6 * one), None)
    if whole is None:
        raise ValueError(f"--split {text!r} makes {total:g}, neither 100 nor 1: {hint}")
    if min(numbers[:2]) <= 0 or min(numbers) < 0:
        raise ValueError(f"--split {text!r}: train and val must be above 0: {hint}")
    train, val, test = (*numbers, 0.0)[:3]
    return train / total, val / total, test / total


def fill_splits(
    examples: dict[str, Examples],
    given: Collection[str],
    rule: SplitRule,
    hashes: Callable[[], ContentHashes],
) -> str:
    """Make the splits that are missing out of train, if any: how, in words.

    `given` are the splits that the user made, be they empty; without any all images are train.
    """
    if "val" in given:
        return ""
    seed, chosen = rule.seed, rule.fractions
    if not given:
        fractions = chosen or FRACTIONS
        text = f"train/val/test {'/'.join(f'{f:g}' for f in fractions)} of each class"
    elif "test" in given or not chosen:
        share = chosen[1] / (chosen[0] + chosen[1]) if chosen else VAL_FRACTION
        fractions = (1 - share, share, 0)
        text = f"val {share:g} of each class of train"
    else:
        fractions = chosen
        parts = "/".join(f"{f:g}" for f in fractions)
        text = f"train/val/test {parts} of each class of train"
    copies = contents_of_copies(examples["train"], hashes()) if rule.copies_together else {}
    train, val, test = divide(examples["train"], seed, fractions, copies)
    examples |= {"train": train, "val": val} | ({} if "test" in given else {"test": test})
    return f"seed {seed}, {text}"


def contents_of_copies(examples: Sequence[Example], hashes: ContentHashes) -> dict[str, bytes]:
    """By file, the sha256 of those images that are exact copies of another one.

    Only files of equal size are read. What cannot be read is no copy; the check names it.
    """
    by_size: dict[int, list[Example]] = {}
    for example in examples:
        if example.held is not None:
            by_size.setdefault(_UNKNOWN_SIZE, []).append(example)
            continue
        try:
            size = os.stat(f"{example.root}/{example.file}").st_size  # noqa: PTH116
        except (OSError, ValueError):
            continue
        by_size.setdefault(size, []).append(example)
    same_size = [one for size, group in by_size.items() if size and len(group) > 1 for one in group]
    contents = {
        example.file: content
        for example, content in zip(same_size, hashes.of(same_size), strict=True)
        if isinstance(content, bytes)
    }
    number = Counter(contents.values())
    return {file: content for file, content in contents.items() if number[content] > 1}


def divide(
    examples: Sequence[Example], seed: int, fractions: Fractions, copies: Mapping[str, bytes]
) -> tuple[Examples, Examples, Examples]:
    """Train, val and test: every class split by itself, copies counted once and kept together.

    A wanted split gets an image of every class that has enough.
    """
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    by_class: dict[int, dict[bytes | str, list[Example]]] = {}
    for example in examples:
        picture = copies.get(example.file, example.file)
        by_class.setdefault(example.label, {}).setdefault(picture, []).append(example)
    placed: dict[bytes | str, int] = {}
    for pictures in by_class.values():
        # Copies under several labels: where the first class has put them.
        for picture in [picture for picture in pictures if picture in placed]:
            parts[placed[picture]].extend(pictures.pop(picture))
        order = sorted(pictures, key=lambda picture: _rank(seed, pictures[picture]))
        num_test = _share(len(order), fractions[2], leave=2)
        num_val = _share(len(order), fractions[1], leave=1 + num_test)
        for index, picture in enumerate(order):
            part = 2 if index < num_test else 1 if index < num_test + num_val else 0
            parts[part].extend(pictures[picture])
            if isinstance(picture, bytes):
                placed[picture] = part
    train, val, test = (tuple(sorted(part, key=lambda example: example.file)) for part in parts)
    return train, val, test


def _rank(seed: int, copies: Sequence[Example]) -> bytes:
    file = min(example.file for example in copies)
    return hashlib.sha256(f"{seed} {file}".encode()).digest()


def _share(count: int, fraction: float, *, leave: int) -> int:
    """How many of `count` make this fraction: at least one, but `leave` are left."""
    return max(0, min(count - leave, max(1, round(count * fraction)))) if fraction else 0
