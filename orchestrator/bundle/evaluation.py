"""How good a bundle is on images whose classes are known: accuracy, F1, what is taken for what.

Definitions are scikit-learn's, with its defaults: `accuracy_score`, `balanced_accuracy_score`,
`f1_score(average="macro")`, `confusion_matrix`. They are computed here because a bundle is used
where scikit-learn is not installed.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.bundle.prediction import Prediction
from orchestrator.bundle.seen import SeenImages
from orchestrator.data.image_paths import Unreadable
from orchestrator.support.uncertainty import accuracy_text, interval, standard_error
from orchestrator.training.objective import METRICS, Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class: how many of its images are right, and how many taken for it are."""

    label: int
    class_name: str
    num_images: int
    num_right: int
    num_predicted: int
    """Images of any class that were taken for this one."""

    @property
    def accuracy(self) -> float | None:
        """The share of its images that are right (its recall); None without images."""
        return self.num_right / self.num_images if self.num_images else None

    @property
    def precision(self) -> float | None:
        """The share of those taken for it that are of it; None where there are none."""
        return self.num_right / self.num_predicted if self.num_predicted else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both; None for a class that nothing is of or taken for."""
        either = self.num_images + self.num_predicted
        return 2 * self.num_right / either if either else None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that were taken for another one."""

    true_class: str
    predicted_class: str
    num_images: int
    of: int
    """Images of the true class."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was counted, and the measures that follow from it; shares are in [0, 1]."""

    class_names: tuple[str, ...]
    counts: Mapping[tuple[int, int], int]
    """Images by true and predicted label."""
    metric: str
    """What the bundle was chosen by: one of the measures below."""
    stage: str
    """`search` or `final`: what the bundle has seen."""
    unreadable: tuple[Unreadable, ...] = ()
    """Images that could not be read; they count nowhere."""
    notes: tuple[str, ...] = ()
    """What was left out of the folder."""
    seen: SeenImages | None = None

    @property
    def num_images(self) -> int:
        return sum(self.counts.values())

    @property
    def accuracy(self) -> float:
        """The share of images that are right."""
        return self._score(METRICS["top1"])

    @property
    def standard_error(self) -> float:
        return standard_error(self.accuracy, self.num_images)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy, for this number of images."""
        return interval(self.accuracy, self.num_images)

    @property
    def mean_per_class_accuracy(self) -> float:
        """The mean of the accuracies of the classes that have images."""
        return self._score(METRICS["mean_per_class"])

    @property
    def macro_f1(self) -> float:
        """The mean of the F1 of all classes that any image is of or was taken for."""
        return statistics.fmean(one.f1 for one in self.classes if one.f1 is not None)

    @property
    def majority_share(self) -> float:
        """What always answering the most frequent class gives."""
        return max(one.num_images for one in self.classes) / self.num_images

    @property
    def confusion(self) -> np.ndarray:
        """(num_classes, num_classes) int64: a row for each true class, a column for each predicted
        one."""
        matrix = np.zeros((len(self.class_names),) * 2, dtype=np.int64)
        for place, number in self.counts.items():
            matrix[place] = number
        return matrix

    @property
    def classes(self) -> list[ClassResult]:
        """In the order of their labels."""
        images, predicted = Counter[int](), Counter[int]()
        for (label, found), number in self.counts.items():
            images[label] += number
            predicted[found] += number
        return [
            ClassResult(
                label=label,
                class_name=name,
                num_images=images[label],
                num_right=self.counts.get((label, label), 0),
                num_predicted=predicted[label],
            )
            for label, name in enumerate(self.class_names)
        ]

    def most_confused(self, num: int | None = None) -> list[Confusion]:
        """Pairs of classes by the number of images that are of one and were taken for the other."""
        images = {one.label: one.num_images for one in self.classes}
        mistakes = [(n, pair) for pair, n in self.counts.items() if pair[0] != pair[1] and n]
        return [
            Confusion(
                true_class=self.class_names[label],
                predicted_class=self.class_names[found],
                num_images=number,
                of=images[label],
            )
            for number, (label, found) in sorted(mistakes, key=lambda one: (-one[0], one[1]))[:num]
        ]

    @property
    def accuracy_text(self) -> str:
        """`95.5 ± 1.5`, in percent; where the error would be 0, the 95 % interval."""
        return accuracy_text(self.accuracy, self.num_images)

    @property
    def mean_per_class_text(self) -> str:
        """Likewise: its standard error is that of the mean of the classes."""
        effective = METRICS["mean_per_class"].effective_images(*self._judged())
        return accuracy_text(self.mean_per_class_accuracy, effective or self.num_images)

    def document(self) -> dict[str, Any]:
        """All of it for programs: docs/json.md says what each name means."""
        low, high = self.interval
        return {
            "num_images": self.num_images,
            "num_unreadable": len(self.unreadable),
            "metric": self.metric,
            "accuracy": self.accuracy,
            "accuracy_standard_error": self.standard_error,
            "accuracy_interval_low": low,
            "accuracy_interval_high": high,
            "mean_per_class_accuracy": self.mean_per_class_accuracy,
            "macro_f1": self.macro_f1,
            "majority_share": self.majority_share,
            "classes": [
                {
                    "label": one.label,
                    "class_name": one.class_name,
                    "num_images": one.num_images,
                    "num_right": one.num_right,
                    "num_predicted": one.num_predicted,
                    "accuracy": one.accuracy,
                    "precision": one.precision,
                    "f1": one.f1,
                }
                for one in self.classes
            ],
            "confusion": self.confusion.tolist(),
            "seen": None if self.seen is None else _seen_document(self.seen),
            "unreadable": [{"image": one.image, "error": one.error} for one in self.unreadable],
            "notes": list(self.notes),
        }

    def _score(self, objective: Objective) -> float:
        return float(objective.score(*self._judged()))

    def _judged(self) -> "tuple[Tensor, Tensor]":
        """Marks and targets of all images, in some order."""
        import torch

        pairs = np.array(list(self.counts), dtype=np.int64).reshape(-1, 2)
        targets, found = np.repeat(pairs, list(self.counts.values()), axis=0).T
        return torch.from_numpy(targets == found), torch.from_numpy(targets.copy())


def _seen_document(seen: SeenImages) -> dict[str, Any]:
    known = not seen.unknown
    return {
        "trained_on": seen.trained_on if known else None,
        "chosen_on": seen.chosen_on if known else None,
        "test": seen.test if known else None,
        "unknown": seen.unknown or None,
    }


class Tally:
    """Counts predictions as they come, so that images need not be kept."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, int]] = Counter()
        self._unreadable: list[Unreadable] = []

    def add(self, label: int, found: Prediction | Unreadable) -> None:
        """One image of the class `label`."""
        if isinstance(found, Unreadable):
            self._unreadable.append(found)
        else:
            self._counts[label, found.label] += 1

    @property
    def has_counted(self) -> bool:
        """Whether one image could be read."""
        return bool(self._counts)

    def evaluation(
        self,
        class_names: Sequence[str],
        *,
        metric: str,
        stage: str,
        notes: Sequence[str] = (),
        seen: SeenImages | None = None,
    ) -> Evaluation:
        """What was counted so far. ValueError if that is not one image."""
        if not self._counts:
            first = f"; {self._unreadable[0].error}" if self._unreadable else ""
            raise ValueError(f"no image could be read, so nothing was measured{first}")
        return Evaluation(
            class_names=tuple(class_names),
            counts=dict(self._counts),
            metric=metric,
            stage=stage,
            unreadable=tuple(self._unreadable),
            notes=tuple(notes),
            seen=seen,
        )
