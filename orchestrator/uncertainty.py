"""How sure a number is. Accuracies are shares of images, in [0, 1]."""

import math
import statistics
from collections.abc import Sequence

CLEAR = 2.0
"""A difference of so many standard errors counts as shown."""


def standard_error(accuracy: float, num_images: int) -> float:
    """Of an accuracy, for the finite number of images it was measured on."""
    return math.sqrt(accuracy * (1 - accuracy) / num_images)


def difference_error(first: float, num_first: int, second: float, num_second: int) -> float:
    """Standard error of the difference of two accuracies on samples taken as independent.

    Agresti and Caffo 2000: one success and one failure more on each side, so that accuracies of
    0 and 1 are not taken as certain. On the same images the true error is smaller.
    """
    variance = 0.0
    for accuracy, images in ((first, num_first), (second, num_second)):
        moved = (accuracy * images + 1) / (images + 2)
        variance += moved * (1 - moved) / (images + 2)
    return math.sqrt(variance)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
