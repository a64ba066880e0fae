"""One result minus another, and whether the difference is more than chance."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.collect import StudyReport
from orchestrator.report.wording import signed
from orchestrator.support.uncertainty import CLEAR, clear_from, difference_error


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two scores by the same metric, with its standard error."""

    value: float
    error: float
    counts_from: float
    """A difference of so much counts as shown: CLEAR errors, or more where the error was estimated
    from few seeds."""
    images: str
    """validation or test."""

    @property
    def verdict(self) -> str:
        """better, worse, or unclear."""
        if not self.value or abs(self.value) < self.counts_from:
            return "unclear"
        return "better" if self.value > 0 else "worse"

    def __str__(self) -> str:
        return signed(self.value, self.error)


def val_difference(study: StudyReport, other: StudyReport) -> Difference | None:
    """The difference of the best val scores, as if on different images; None if by different
    metrics."""
    if study.val_accuracy is None or other.val_accuracy is None:
        return None
    if study.task.metric != other.task.metric:
        return None
    error = difference_error(
        study.val_accuracy, study.val_images, other.val_accuracy, other.val_images
    )
    return Difference(
        value=study.val_accuracy - other.val_accuracy,
        error=error,
        counts_from=CLEAR * error,
        images="validation",
    )


def test_difference(study: StudyReport, other: StudyReport) -> Difference | None:
    """The difference of the final test scores, where both were run with two seeds or more.

    None too where it is not known how many test images there were, or where the metrics are
    different. See `over_seeds`.
    """
    if study.final is None or other.final is None or study.task.metric != other.task.metric:
        return None
    num_ours, num_theirs = study.final.test_images, other.final.test_images
    if num_ours is None or num_theirs is None:
        return None
    return over_seeds(
        study.final.test_accuracies, num_ours, other.final.test_accuracies, num_theirs
    )


def over_seeds(
    ours: Mapping[int, float], num_ours: float, theirs: Mapping[int, float], num_theirs: float
) -> Difference | None:
    """Difference of mean test accuracies over seeds, for both kinds of chance.

    Its variance is that of the seeds plus that of the images. Seeds: s^2 / k of the differences by
    seed where two or more are common, else s1^2 / k1 + s2^2 / k2. Images: p (1 - p) / n of either
    side, as if on different images (Agresti and Caffo 2000), since all seeds share them and a mean
    over seeds does not make them more. That both must be counted: Bouthillier et al. 2021,
    "Accounting for Variance in Machine Learning Benchmarks", https://arxiv.org/abs/2103.03098.

    What counts as shown adds up likewise, from CLEAR errors of the images and as many of the seeds
    as Student's t wants (Zou and Donner 2008, as in `interval_over_seeds`): Welch's degrees of
    freedom would call nothing a difference in 9 of 100 comparisons of two seeds.
    """
    common = sorted(ours.keys() & theirs.keys())
    if len(common) > 1:
        ours, theirs = ({seed: runs[seed] for seed in common} for runs in (ours, theirs))
        of_seeds = [_error_of_mean([ours[seed] - theirs[seed] for seed in common])]
    elif min(len(ours), len(theirs)) > 1:
        of_seeds = [_error_of_mean(list(runs.values())) for runs in (ours, theirs)]
    else:
        return None
    means = [statistics.fmean(runs.values()) for runs in (ours, theirs)]
    of_images = difference_error(means[0], num_ours, means[1], num_theirs)
    return Difference(
        value=means[0] - means[1],
        error=math.hypot(of_images, *(error for error, _ in of_seeds)),
        counts_from=math.hypot(
            CLEAR * of_images, *(clear_from(degrees) * error for error, degrees in of_seeds)
        ),
        images="test",
    )


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """Over tasks, whose images have nothing to do with each other."""
    count = len(differences)
    return Difference(
        value=statistics.fmean(found.value for found in differences),
        error=math.hypot(*(found.error for found in differences)) / count,
        counts_from=math.hypot(*(found.counts_from for found in differences)) / count,
        images=differences[0].images,
    )


def _error_of_mean(values: Sequence[float]) -> tuple[float, int]:
    """Standard error, and its degrees of freedom."""
    return statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1
