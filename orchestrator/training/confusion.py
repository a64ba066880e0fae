"""Which classes of the test images are taken for which."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ALL_UP_TO = 100
"""Of more classes only the pairs that are confused most are kept."""
MOST_PAIRS = 20


def confused(answers: "Tensor", labels: "Tensor", num_classes: int) -> list[list[int]]:
    """[label, answer, images] of what is wrong of answers (N,) for labels (N,), the most first."""
    wrong = answers != labels
    pairs, images = (labels[wrong] * num_classes + answers[wrong]).unique(return_counts=True)
    # Equal counts in the order of their labels, whatever the sort of this version does.
    found = sorted(
        zip(pairs.tolist(), images.tolist(), strict=True), key=lambda one: (-one[1], one)
    )
    kept = found if num_classes <= ALL_UP_TO else found[:MOST_PAIRS]
    return [[*divmod(pair, num_classes), count] for pair, count in kept]
