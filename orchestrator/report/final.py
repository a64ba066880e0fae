"""Final test accuracies: of the winner of a study, retrained on train and val, tested once a seed.

`finalize` writes `final.json` in the folder of a sweep, a list of objects with at least `task`,
`space` and `test_accuracies` (`{"42": 0.713, ...}`); without it no test number is ever shown.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.final_protocol import times_opened
from orchestrator.final_record import FinalRecord
from orchestrator.finalists import choose_finalists
from orchestrator.record import TrialRecord

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
    finalists: tuple[int, ...] = ()
    """Numbers of the trials that were compared; empty where an older version wrote the file."""
    num_finalists: int = 0
    """How many were to be compared."""
    num_trials_at_choice: int | None = None
    """How many trials of the search had ended when the finalists were chosen."""
    num_planned_trials: int | None = None
    round: int = 1
    """2 and more: the last stage was done again."""
    num_openings: int = 1
    """In how many rounds the test split was opened."""
    earlier: tuple["FinalResult", ...] = ()
    """The rounds before this one."""

    @property
    def test_majority_share(self) -> float | None:
        """The test accuracy of always answering the most frequent class."""
        if self.test_majority is None or not self.num_test:
            return None
        return self.test_majority / self.num_test

    @property
    def is_early(self) -> bool:
        """The finalists were chosen before the search was over."""
        chosen, planned = self.num_trials_at_choice, self.num_planned_trials
        return chosen is not None and planned is not None and chosen < planned


def is_current(result: FinalResult, trials: Sequence[TrialRecord]) -> bool:
    """Its finalists would be chosen now too; False: the search went on and has better ones."""
    now = choose_finalists(trials, result.num_finalists)
    return not result.finalists or tuple(trial.number for trial in now) == result.finalists


def caveats(result: FinalResult) -> Iterator[str]:
    """What a reader of the test number should know of how it came about."""
    planned = result.num_planned_trials
    if result.is_early and result.finalists:
        yield (
            f"Its finalists were chosen when {result.num_trials_at_choice} of {planned} trials of "
            "the search had ended."
        )
    for earlier in result.earlier:
        winner = "no winner" if earlier.winner is None else f"trial #{earlier.winner}"
        accuracies = list(earlier.test_accuracies.values())
        reached = f"{100 * fmean(accuracies):.1f} % on test" if accuracies else "not tested"
        yield (
            f"Round {earlier.round} before it: {winner}, {reached}, chosen when "
            f"{earlier.num_trials_at_choice} of {planned} trials had ended."
        )
    if result.num_openings > 1:
        yield times_opened(result.num_openings)


def with_test_images(results: Sequence[FinalResult], finals: FinalRecord) -> list[FinalResult]:
    """With the number of test images out of the storage, where an older file lacks it."""
    found = []
    for result in results:
        runs = finals.final_runs(f"{result.task}.{result.space}")
        known = [run.facts["num_test"] for run in runs if "num_test" in run.facts]
        is_known = result.num_test is not None or not known
        found.append(result if is_known else replace(result, num_test=known[0]))
    return found


def read_final_results(folder: Path) -> list[FinalResult]:
    """The final results of a sweep folder; empty if it was not finalized."""
    path = folder / FINAL_FILE
    if not path.exists():
        return []
    try:
        return [_result(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: is not a list of final results: {error!r}") from error


def _result(entry: Mapping[str, Any]) -> FinalResult:
    accuracies = {int(k): _accuracy(value) for k, value in entry["test_accuracies"].items()}
    return FinalResult(
        task=entry["task"],
        space=entry["space"],
        test_accuracies=accuracies,
        winner=entry.get("winner"),
        why=entry.get("why", ""),
        cross_validation=entry.get("cross_validation"),
        num_test=entry.get("num_test"),
        test_majority=entry.get("test_majority"),
        test_images_by_class=entry.get("test_images_by_class") or (),
        test_correct_by_class={
            int(seed): counts for seed, counts in (entry.get("test_correct_by_class") or {}).items()
        },
        finalists=tuple(entry.get("finalists", ())),
        num_finalists=entry.get("num_finalists", 0),
        num_trials_at_choice=entry.get("num_trials_at_choice"),
        num_planned_trials=entry.get("num_planned_trials"),
        round=entry.get("round", 1),
        num_openings=entry.get("num_openings", 1),
        earlier=tuple(_result(earlier) for earlier in entry.get("earlier", ())),
    )


def _accuracy(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"test accuracy {value} is not in [0, 1]")
    return float(value)
