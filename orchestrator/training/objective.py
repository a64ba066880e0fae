"""What is measured and maximised on a task is one object: its loss, its score, and what to call it.

Nothing else in the product knows what a score is made of. To add an objective: its class in a file
of its own beside `accuracy.py`, and a line in `METRICS`.

Every score lies in BOUNDS and is higher for the better model, since percent, intervals, pruners
and ranks rely on it; a measure of another kind is brought into that form by its objective.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import Between, OneOf
from orchestrator.training.accuracy import MeanPerClass, Top1

if TYPE_CHECKING:  # names and words of an objective are known without torch
    import numpy as np
    from torch import Tensor

BOUNDS = (0.0, 1.0)
"""The lowest and the highest value that a score can have."""
DIRECTION = "maximize"
"""Every search maximizes its score (Optuna's word for it)."""

Score = Annotated[float, Between(*BOUNDS)]
"""In a document."""


class Objective(Protocol):
    """One way to train and to judge a model on the images of a task.

    `targets` are what the loss compares with, for every image; `marks` are what the score is
    computed from, image by image, so that it does not depend on how images are split into batches.
    """

    name: str
    """In plans, commands and columns: `top1`."""
    words: str
    """In sentences and titles: `accuracy`, which is in [0, 1], or in percent where a % stands."""
    unit: str
    """Behind a number: `%`, with the words that tell it from plain accuracy."""
    key: str
    """In names of metrics: `val_<key>`."""

    def head_width(self, num_classes: int) -> int:
        """How many numbers the head gives for an image."""
        ...

    def targets(self, labels: "np.ndarray") -> "Tensor":
        """What the labels (N,) of decoded images are in training: (N, ...) on the CPU."""
        ...

    def loss(
        self, logits: "Tensor", targets: "Tensor", reduction: Literal["sum", "none"]
    ) -> "Tensor":
        """The loss of logits (B, head width): the sum, or (B,)."""
        ...

    def guessing_loss(self, num_classes: int) -> float:
        """The mean loss of a model that knows nothing of the images."""
        ...

    def marks(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """(B, ...) on the device, without waiting for it."""
        ...

    def answers(self, logits: "Tensor") -> "Tensor":
        """(B,) int64, on the device: the label that is given to each image."""
        ...

    def score(self, marks: "Tensor", targets: "Tensor") -> "Tensor":
        """(), float64, of all images together."""
        ...

    def guessing_score(self, num_classes: int) -> float:
        """The expected score of a model that knows nothing of the images."""
        ...

    def constant_score(self, labels: "np.ndarray") -> float:
        """The score of always giving the same answer, that of the most frequent class of
        `labels`."""
        ...

    def effective_images(self, marks: "Tensor", targets: "Tensor") -> float | None:
        """How many images would make a plain accuracy as sure as this score.

        Hence sqrt(score (1 - score) / effective images) is its standard error. None: the images.
        """
        ...

    def effective_images_of(self, labels: "np.ndarray") -> float | None:
        """Likewise, before there is a model, if it were equally good on all classes."""
        ...

    def by_class(
        self, marks: "Tensor", targets: "Tensor", num_classes: int
    ) -> tuple[list[int], list[int]]:
        """Images of every class, and the right ones of these."""
        ...

    def ranked(self, logits: "Tensor", num: int) -> list[list[tuple[int, float]]]:
        """For every image its `num` most probable labels, or all there are, and how probable each
        is: the best first, which is what the score judges."""
        ...


TOP1: Objective = Top1()
METRICS: Mapping[str, Objective] = {
    objective.name: objective for objective in (TOP1, MeanPerClass())
}
"""By name; the first is the default."""

DEFAULT_METRIC = TOP1.name
MetricName = Annotated[str, OneOf(tuple(METRICS))]
"""In a document."""


def objective_named(metric: str) -> Objective:
    """ValueError for a name that is none, with the nearest that is."""
    if metric not in METRICS:
        raise ValueError(unknown("metric", metric, METRICS))
    return METRICS[metric]


def is_score(value: float) -> bool:
    """Whether a number can be the score of any objective."""
    return math.isfinite(value) and BOUNDS[0] <= value <= BOUNDS[1]


def together(effective_images: Sequence[float]) -> float:
    """Effective images of the mean of scores on the same images: their variances are averaged."""
    return len(effective_images) / sum(1 / images for images in effective_images)
