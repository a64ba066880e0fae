"""Objectives of tasks whose images have one label each: top-1 and mean per-class accuracy.

Both train with cross-entropy and answer with the most probable class. They differ in what counts
alike: every image, or every class.
"""

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.support.uncertainty import standard_error

if TYPE_CHECKING:
    from torch import Tensor

DRAWN_IN = 2
"""Chosen so that the standard error of a mean per-class accuracy is right within 6 % from one image
per class on, where classes are alike, and is too large rather than too small where they are not."""


class _OneLabel:
    """What the two have in common."""

    def head_width(self, num_classes: int) -> int:
        return num_classes

    def targets(self, labels: np.ndarray) -> "Tensor":
        import torch

        return torch.from_numpy(labels.copy())  # a mapped file must not be held through a tensor

    def loss(
        self, logits: "Tensor", targets: "Tensor", reduction: Literal["sum", "none"]
    ) -> "Tensor":
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, reduction=reduction)

    def guessing_loss(self, num_classes: int) -> float:
        return math.log(max(2, num_classes))

    def marks(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) bool: which images are right."""
        return logits.argmax(dim=1) == targets

    def answers(self, logits: "Tensor") -> "Tensor":
        return logits.argmax(dim=1)

    def guessing_score(self, num_classes: int) -> float:
        return 1 / num_classes

    def by_class(
        self, marks: "Tensor", targets: "Tensor", num_classes: int
    ) -> tuple[list[int], list[int]]:
        import torch

        right = targets[marks.to(targets.device)]
        images, right = (torch.bincount(t, minlength=num_classes) for t in (targets, right))
        return images.tolist(), right.tolist()

    def ranked(self, logits: "Tensor", num: int) -> list[list[tuple[int, float]]]:
        """The probability is that of the softmax; of equal ones the lower label is first, as in
        `marks`."""
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :num]
        probabilities = logits.softmax(dim=1).gather(1, order)
        pairs = zip(order.tolist(), probabilities.tolist(), strict=True)
        return [list(zip(*pair, strict=True)) for pair in pairs]


class Top1(_OneLabel):
    """The share of images that are right."""

    name = "top1"
    words = "accuracy"
    unit = "%"
    key = "accuracy"

    def score(self, marks: "Tensor", targets: "Tensor") -> "Tensor":
        return marks.sum().double() / len(targets)

    def constant_score(self, labels: np.ndarray) -> float:
        return int(np.bincount(labels).max()) / len(labels)

    def effective_images(self, marks: "Tensor", targets: "Tensor") -> None:
        return None

    def effective_images_of(self, labels: np.ndarray) -> None:
        return None


class MeanPerClass(_OneLabel):
    """The mean of the accuracies of all classes that have images: a rare class counts as any.

    As Caltech-101, Oxford-IIIT Pets and Flowers-102 are often given; scikit-learn calls it
    `balanced_accuracy_score`.
    """

    name = "mean_per_class"
    words = "mean per-class accuracy"
    unit = "% mean per-class"
    key = "mean_per_class_accuracy"

    def score(self, marks: "Tensor", targets: "Tensor") -> "Tensor":
        images, right = _counts(marks, targets)
        return (right / images).mean()

    def constant_score(self, labels: np.ndarray) -> float:
        """Right on one class, whichever, and wrong on all others."""
        return 1 / len(np.unique(labels))

    def effective_images(self, marks: "Tensor", targets: "Tensor") -> float:
        images, right = (counts.cpu().numpy() for counts in _counts(marks, targets))
        return _effective_images(images, right)

    def effective_images_of(self, labels: np.ndarray) -> float:
        counts = np.bincount(labels)
        return _of_equal_classes(counts[counts > 0])


def _counts(marks: "Tensor", targets: "Tensor") -> "tuple[Tensor, Tensor]":
    """Images, and right images, of every class that has images: float64, exact."""
    import torch

    images = torch.bincount(targets)
    right = torch.zeros(len(images), dtype=torch.float64, device=targets.device)
    right.index_add_(0, targets, marks.to(right))
    there = images > 0
    return images[there].double(), right[there]


def _of_equal_classes(images: np.ndarray) -> float:
    """C^2 / sum of 1/n over C classes of n images: so many, if all are right equally often."""
    return float(len(images) ** 2 / (1 / images).sum())


def _effective_images(images: np.ndarray, right: np.ndarray) -> float:
    """From the binomial variances of the classes, whose mean's standard error is their root / C.

    Classes of few images are often all right or all wrong, which makes nothing certain: so each
    accuracy is drawn toward the mean of all by DRAWN_IN images. Nor is the standard error ever less
    than where all images are right.
    """
    equal = _of_equal_classes(images)
    score = float((right / images).mean())
    if score in (0.0, 1.0):
        return equal
    drawn_in = (right + DRAWN_IN * score) / (images + DRAWN_IN)
    error = math.sqrt((drawn_in * (1 - drawn_in) / images).sum()) / len(images)
    return score * (1 - score) / max(error, standard_error(1.0, equal)) ** 2
