"""One result minus another, and whether the difference is more than chance."""

import math
import statistics
from dataclasses import dataclass

from orchestrator.report.collect import StudyReport
from orchestrator.report.wording import signed
from orchestrator.uncertainty import CLEAR, difference_error


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two accuracies, with its standard error."""

    value: float
    error: float
    images: str
    """validation or test."""

    @property
    def verdict(self) -> str:
        """better, worse, or unclear."""
        if not self.value or abs(self.value) < CLEAR * self.error:
            return "unclear"
        return "better" if self.value > 0 else "worse"

    def __str__(self) -> str:
        return signed(self.value, self.error)


def val_difference(study: StudyReport, other: StudyReport) -> Difference | None:
    """Of the best val accuracies, as if they were measured on different images."""
    if study.val_accuracy is None or other.val_accuracy is None:
        return None
    return Difference(
        value=study.val_accuracy - other.val_accuracy,
        error=difference_error(
            study.val_accuracy, study.task.num_val, other.val_accuracy, other.task.num_val
        ),
        images="validation",
    )


def test_difference(study: StudyReport, other: StudyReport) -> Difference | None:
    """Of the final test accuracies: by seed where both were run with two of the same or more."""
    if study.final is None or other.final is None:
        return None
    ours, theirs = study.final.test_accuracies, other.final.test_accuracies
    common = ours.keys() & theirs.keys()
    if len(common) > 1:
        changes = [ours[seed] - theirs[seed] for seed in sorted(common)]
        value, error = statistics.fmean(changes), statistics.stdev(changes) / len(changes) ** 0.5
    elif min(len(ours), len(theirs)) > 1:
        value = statistics.fmean(ours.values()) - statistics.fmean(theirs.values())
        spreads = (statistics.variance(runs.values()) / len(runs) for runs in (ours, theirs))
        error = math.sqrt(sum(spreads))
    else:
        return None
    return Difference(value=value, error=error, images="test")
