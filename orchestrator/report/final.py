"""Final test accuracies: of the winner of a study, retrained on train and val, tested once a seed.

`finalize` writes `final.json` in the folder of a sweep, a list of objects with at least `task`,
`space` and `test_accuracies` (`{"42": 0.713, ...}`); without it no test number is ever shown.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FINAL_FILE = "final.json"


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """One winner on the test images."""

    task: str
    space: str
    test_accuracies: Mapping[int, float]
    """By seed, after the last epoch, in [0, 1]; empty while there is none."""
    winner: int | None = None
    """Number of the trial in the search."""
    why: str = ""
    """How the winner was chosen."""
    cross_validation: float | None = None
    """The winner's mean accuracy over folds of all labelled images."""
    num_test: int | None = None
    """Test images; None where a version before wrote the file, as all below."""
    test_majority: int | None = None
    """Of these, those of the most frequent class."""
    test_images_by_class: Sequence[int] = ()
    """By label."""
    test_correct_by_class: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """By seed: the right ones, by label."""

    @property
    def test_majority_share(self) -> float | None:
        """The test accuracy of always answering the most frequent class."""
        if self.test_majority is None or not self.num_test:
            return None
        return self.test_majority / self.num_test


def read_final_results(folder: Path) -> list[FinalResult]:
    """The final results of a sweep folder; empty if it was not finalized."""
    path = folder / FINAL_FILE
    if not path.exists():
        return []
    try:
        return [
            FinalResult(
                task=entry["task"],
                space=entry["space"],
                test_accuracies={
                    int(seed): _accuracy(value) for seed, value in entry["test_accuracies"].items()
                },
                winner=entry.get("winner"),
                why=entry.get("why", ""),
                cross_validation=entry.get("cross_validation"),
                num_test=entry.get("num_test"),
                test_majority=entry.get("test_majority"),
                test_images_by_class=entry.get("test_images_by_class") or (),
                test_correct_by_class={
                    int(seed): counts
                    for seed, counts in (entry.get("test_correct_by_class") or {}).items()
                },
            )
            for entry in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: is not a list of final results: {error!r}") from error


def _accuracy(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"test accuracy {value} is not in [0, 1]")
    return float(value)
