"""Runs of one configuration that fall apart while the others do well.

Large rates of SGD do that to single seeds of VPT: of four runs on SVHN with one configuration three
reached 80 to 82 % and one 66 % (KMnP/vpt on GitHub, issue 42). A mean hides it; who deploys one run
may have that one.
"""

import statistics
from collections.abc import Mapping
from typing import TypeVar

Run = TypeVar("Run")

LEAST_RUNS = 3
"""Of two runs nobody can say which of them is the odd one."""

FARTHEST = 0.85
POINTS = 0.1
"""A run below this share of the median, and so far below it, has collapsed. Seeds of a sound
configuration differ by a few points, on few images by some more."""


def collapsed(scores: Mapping[Run, float]) -> dict[Run, float]:
    """Of runs by fold or seed those that collapsed, with their scores."""
    if len(scores) < LEAST_RUNS:
        return {}
    median = statistics.median(scores.values())
    least = min(FARTHEST * median, median - POINTS)
    return {run: score for run, score in scores.items() if score < least}


def collapsed_text(scores: Mapping[Run, float], kind: str) -> str | None:
    """`collapsed for 1 of 5 seeds (82: 12.0, median 94.2)`; None where none did."""
    found = collapsed(scores)
    if not found:
        return None
    median = 100 * statistics.median(scores.values())
    told = ", ".join(f"{run}: {100 * score:.1f}" for run, score in found.items())
    return f"collapsed for {len(found)} of {len(scores)} {kind} ({told}, median {median:.1f})"
