"""How finalists are compared and winners are tested, and whether tasks have the images for it.

Only lists are looked at here: no image is opened, of the test split neither.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.data.task import FINAL_SPLITS, SEARCH_SPLITS, DataError, Task

logger = logging.getLogger(__name__)

SEEDS = (42, 44, 82, 100, 800)
"""The seeds of the final runs in the published protocol of VTAB-1k."""

FIRST_SEED = "first seed of the protocol that completed"
"""Whose prompts are in a bundle: a rule that does not look at the test accuracies."""

MEDIAN_SEED = "median on test"
"""What older versions chose; a bundle of theirs stays as it is."""

MOST_REPEATS = 10
"""A bound against typing errors, not a measured one: where more seeds stop to help was not
looked at."""

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class FinalProtocol:
    """How the finalists of a sweep are compared and the winner is tested."""

    num_finalists: int = 3
    num_folds: int = 5
    seeds: tuple[int, ...] = SEEDS
    most_finalists: int = 0
    """Where more trials than `num_finalists` are within one standard error of the best on
    validation, so many of them are compared; 0: never more than `num_finalists`."""
    repeats: int = 0
    """How often finalists that the folds cannot tell apart are trained again on the same folds,
    each time with other seeds."""

    def __post_init__(self) -> None:
        if self.num_finalists < 1:
            raise ValueError(f"--finalists must be at least 1, found {self.num_finalists}")
        if self.num_folds < 2:
            raise ValueError(f"--folds must be at least 2, found {self.num_folds}")
        if self.most_finalists and self.most_finalists < self.num_finalists:
            raise ValueError(
                f"--most-finalists must be at least --finalists, {self.num_finalists}, found "
                f"{self.most_finalists}"
            )
        if not 0 <= self.repeats <= MOST_REPEATS:
            raise ValueError(f"--repeats must be from 0 to {MOST_REPEATS}, found {self.repeats}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"--seeds must be different numbers, found {self.seeds}")

    def stored(self) -> dict[str, Any]:
        """As a storage keeps it: what older versions did not know is left out where unused."""
        told = asdict(self)
        unused = [name for name in ("most_finalists", "repeats") if not told[name]]
        return {
            **{name: value for name, value in told.items() if name not in unused},
            "seeds": list(self.seeds),
        }

    def num_runs(self, num_finalists: int) -> int:
        """Runs of so many finalists on their folds, if none is stopped and none can be told from
        the best."""
        return self.num_folds * num_finalists + self.num_possible(num_finalists)

    def num_possible(self, num_finalists: int, repeats: int | None = None) -> int:
        """Those of them that only near-ties cause, in all repeats or in so many."""
        several = num_finalists if num_finalists > 1 else 0
        return self.num_folds * several * (self.repeats if repeats is None else repeats)


def refuse_unsuited(tasks: Sequence[Task], protocol: FinalProtocol) -> None:
    """DataError names the tasks that have no test split, or fewer labelled images than folds.

    A class with fewer images than folds is worth a warning: it is missing from some folds.
    """
    untestable = [t for t in tasks if not all(t.splits.get(name) for name in FINAL_SPLITS)]
    if untestable:
        raise DataError(
            f"finalize needs a test split, and there is none in {_listed(untestable)}: put test "
            "images into test/<class>/ below its folder, or search without --finalize"
        )
    counts = {task.name: _labelled(task) for task in tasks}
    too_few = [task for task in tasks if counts[task.name].total() < protocol.num_folds]
    if too_few:
        most = min(counts[task.name].total() for task in too_few)
        raise DataError(
            f"--folds {protocol.num_folds} needs as many labelled images, and there are fewer in "
            f"{_listed(too_few)}: at most {most} folds are possible"
        )
    for task in tasks:
        small = [label for label, n in counts[task.name].items() if n < protocol.num_folds]
        if small:
            label = min(small, key=lambda label: (counts[task.name][label], label))
            logger.warning(
                "%s: %d of %d classes have fewer than %d labelled images (%s has %d), so that some "
                "of the %d folds measure finalists without them",
                task.name,
                len(small),
                task.num_classes,
                protocol.num_folds,
                task.class_names[label],
                counts[task.name][label],
                protocol.num_folds,
            )


def times_opened(num_openings: int) -> str:
    """The sentence that belongs to every test number."""
    if num_openings <= 1:
        return "The test split was opened once."
    return (
        f"The test split was opened {num_openings} times: the last stage was done again, and "
        "this is its newest round."
    )


def _labelled(task: Task) -> Counter[int]:
    """Images of train and val by class: what the folds are made of."""
    splits = [task.splits[name] for name in SEARCH_SPLITS if name in task.splits]
    return Counter(example.label for split in splits for example in split.examples)


def _listed(tasks: Sequence[Task]) -> str:
    names = ", ".join(task.name for task in tasks[:SHOWN])
    return f"{names} and {len(tasks) - SHOWN} more" if len(tasks) > SHOWN else names
