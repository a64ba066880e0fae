"""How sure a number is. Accuracies are shares of images, in [0, 1]; texts are in percent.

An accuracy on n images is written with its standard error, `95.5 ± 1.5`, one over several seeds
with the standard deviation over the seeds. Where these are 0 they say nothing, since the images are
finite: then the 95 % interval stands in their place, `100.0 (≥ 98.1)` or `95.0 (91.0–97.3)`.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from statistics import NormalDist

CLEAR = 2.0
"""A difference of so many standard errors counts as shown."""

LEVEL = 0.95
"""The confidence level of the intervals."""

EXPLAINED = (
    "Where ± would be 0 because all images are right, all are wrong, or all seeds agree, the 95 % "
    "interval for the finite number of images stands instead: (≥ 98.1), (≤ 1.9), (91.0–97.3)."
)

_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def standard_error(accuracy: float, num_images: float) -> float:
    """The standard error of an accuracy, for the finite number of images it was measured on; never
    0.

    sqrt(p (1 - p) / n); for accuracies of 0 and 1, where that is 0, the way from them to the other
    end of Wilson's interval of one standard error, 1 / (n + 1).
    """
    if accuracy in (0.0, 1.0):
        return 1 / (num_images + 1)
    return math.sqrt(accuracy * (1 - accuracy) / num_images)


def interval(accuracy: float, num_images: float) -> tuple[float, float]:
    """The 95 % interval of an accuracy on so many images.

    Wilson 1927, which Brown, Cai and DasGupta 2001 (https://doi.org/10.1214/ss/1009213286)
    recommend over p ± 1.96 standard errors, above all near 0 and 1.
    """
    weight = num_images + _Z**2
    middle = (accuracy * num_images + _Z**2 / 2) / weight
    half = _Z / weight * math.sqrt(num_images * accuracy * (1 - accuracy) + _Z**2 / 4)
    # At 0 and 1 that end is exact, whatever the rounding says.
    low = 0.0 if accuracy == 0 else max(0.0, middle - half)
    return low, 1.0 if accuracy == 1 else min(1.0, middle + half)


def interval_over_seeds(accuracies: Sequence[float], num_images: float) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds, for the seeds and for the images they share.

    The images' part is Wilson's interval around the mean, the seeds' part Student's t; the squares
    of their widths add up on each side (Zou and Donner 2008, https://doi.org/10.1002/sim.3095).
    """
    mean = statistics.fmean(accuracies)
    low, high = interval(mean, num_images)
    of_seeds = 0.0
    if len(accuracies) > 1:
        error = statistics.stdev(accuracies) / math.sqrt(len(accuracies))
        of_seeds = quantile((1 + LEVEL) / 2, len(accuracies) - 1) * error
    return (
        max(0.0, mean - math.hypot(mean - low, of_seeds)),
        min(1.0, mean + math.hypot(high - mean, of_seeds)),
    )


def interval_over_folds(by_fold: Sequence[float], num_images: float) -> tuple[float, float]:
    """The 95 % interval of a mean over folds of `num_images` together, each measured once or more.

    Student's t over the folds, in whose differences images and seeds both show, but on no side
    narrower than Wilson's interval for all images: few folds may be alike by chance.
    """
    mean = statistics.fmean(by_fold)
    low, high = interval(mean, num_images)
    if len(by_fold) > 1:
        error = statistics.stdev(by_fold) / math.sqrt(len(by_fold))
        half = quantile((1 + LEVEL) / 2, len(by_fold) - 1) * error
        low, high = min(low, max(0.0, mean - half)), max(high, min(1.0, mean + half))
    return low, high


def difference_error(first: float, num_first: float, second: float, num_second: float) -> float:
    """Standard error of the difference of two accuracies on samples taken as independent.

    Agresti and Caffo 2000: one success and one failure more on each side, so that accuracies of
    0 and 1 are not taken as certain. On the same images the true error is smaller.
    """
    variance = 0.0
    for accuracy, images in ((first, num_first), (second, num_second)):
        moved = (accuracy * images + 1) / (images + 2)
        variance += moved * (1 - moved) / (images + 2)
    return math.sqrt(variance)


def paired_error(differences: Sequence[float], num_images: float) -> float:
    """Standard error of the mean of differences by fold, for folds of `num_images` together.

    Never less than if all images that tell the two sides apart spoke for the same one (McNemar):
    folds that happen to differ by the same number of images do not make it certain.
    """
    lead = abs(statistics.fmean(differences))
    of_folds = statistics.stdev(differences) / math.sqrt(len(differences))
    return max(of_folds, math.sqrt(lead * (1 - lead) / num_images))


def clear_from(degrees: int) -> float:
    """How many standard errors count as shown, where the error was estimated from few values.

    CLEAR for very many degrees of freedom, more for few: Student's t at the same level.
    """
    return quantile(NormalDist().cdf(CLEAR), degrees)


def quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution."""
    # What scipy.stats.t.ppf is, which takes as long to import as all other modules of a report.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def accuracy_text(accuracy: float, num_images: float) -> str:
    """`95.5 ± 1.5`, one standard error; `100.0 (≥ 98.1)` where all images are right."""
    if accuracy in (0.0, 1.0):
        return with_interval(accuracy, interval(accuracy, num_images))
    error = 100 * standard_error(accuracy, num_images)
    digits = digits_of(error)
    return f"{100 * accuracy:.{digits}f} ± {error:.{digits}f}"


def seeds_text(accuracies: Sequence[float], num_images: float | None) -> str:
    """`95.5 ± 1.0`, standard deviation over seeds; `95.0 (91.0–97.3)` where it says nothing.

    `num_images` is None where nobody has kept it: then a mean without deviation stands alone.
    """
    mean, deviation = mean_and_deviation(accuracies)
    if deviation is not None and digits_of(100 * deviation) == 1:
        return f"{100 * mean:.1f} ± {100 * deviation:.1f}"
    if num_images is None:
        return f"{100 * mean:.1f}"
    return with_interval(mean, interval_over_seeds(accuracies, num_images))


def folds_text(mean: float | None, ends: Sequence[float] | None) -> str | None:
    """`81.2 (79.1–83.2)`, a mean over folds with its interval; the mean alone where that was not
    kept, None where there is none."""
    if mean is None or ends is None:
        return None if mean is None else f"{100 * mean:.1f}"
    low, high = ends
    return with_interval(mean, (low, high))


def with_interval(accuracy: float, ends: tuple[float, float]) -> str:
    """`95.0 (91.0–97.3)`."""
    low, high = (100 * end for end in ends)
    digits = digits_of(min(100 * accuracy - low or math.inf, high - 100 * accuracy or math.inf))
    if high == 100:
        inside = f"≥ {_rounded(low, digits, math.floor)}"
    elif low == 0:
        inside = f"≤ {_rounded(high, digits, math.ceil)}"
    else:
        inside = f"{low:.{digits}f}–{high:.{digits}f}"
    return f"{100 * accuracy:.1f} ({inside})"


def _rounded(value: float, digits: int, toward: Callable[[float], int]) -> str:
    """To the nearest, unless that would be 0 or 100 itself."""
    near = f"{value:.{digits}f}"
    if float(near) not in (0.0, 100.0):
        return near
    return f"{toward(value * 10**digits) / 10**digits:.{digits}f}"


def digits_of(points: float) -> int:
    """Behind the point, so that a number of points does not read as 0: 1, or more if it must."""
    if points <= 0:
        return 0
    return next(n for n in itertools.count(1) if float(f"{points:.{n}f}") > 0)
