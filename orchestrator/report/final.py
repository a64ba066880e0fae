"""Final test accuracies: of the winner of a study, retrained on train and val, tested once a seed.

`finalize` writes `final.json` in the folder of a sweep, a list of objects with at least `task`,
`space` and `test_accuracies` (`{"42": 0.713, ...}`). Where the folder is not at hand, the same is
read from the storage.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from orchestrator.plan.final_protocol import times_opened
from orchestrator.plan.plan import SweepPlan, TaskPlan
from orchestrator.record.final_outcome import outcomes
from orchestrator.record.finalists import finalists_by
from orchestrator.record.finals import FinalRecord
from orchestrator.record.record import Record, TrialRecord
from orchestrator.support.counted import counted
from orchestrator.support.document import Between, read_as, shown
from orchestrator.support.regular_file import read_regular
from orchestrator.support.uncertainty import folds_text
from orchestrator.training.objective import DEFAULT_METRIC, MetricName, Score

FINAL_FILE = "final.json"
MOST_BYTES = 100_000_000

Count = Annotated[int, Between(0, 10**9)]


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """One winner on the test images."""

    task: str
    space: str
    test_accuracies: Mapping[int, Score]
    """By seed, after the last epoch, in [0, 1], by `metric`; empty while there is none."""
    metric: MetricName = DEFAULT_METRIC
    """What its accuracies are; older files were about top-1 accuracy alone."""
    winner: Count | None = None
    """Number of the trial in the search."""
    why: str = ""
    """How the winner was chosen."""
    cross_validation: Score | None = None
    """The winner's mean accuracy over folds of all labelled images, and over the seeds of each."""
    cross_validation_interval: tuple[Score, Score] | None = None
    """95 %, of that mean; None where an older version wrote the file."""
    num_seeds_on_folds: Annotated[int, Between(1, 10**6)] = 1
    """With how many seeds the winner was trained on each fold."""
    num_test: Count | None = None
    """Test images; None where a version before wrote the file, as all below."""
    test_majority: Count | None = None
    """How many of these images belong to the most frequent class."""
    test_baseline: Score | None = None
    """What always answering one class gives; None: `test_majority` of `num_test`."""
    test_effective_images: Annotated[float, Between(1e-9, 10**9)] | None = None
    """As many images of a top-1 accuracy would tell as much; None: `num_test`."""
    test_images_by_class: Sequence[Count] = ()
    """By label."""
    test_correct_by_class: Mapping[int, Sequence[Count]] = field(default_factory=dict)
    """By seed: the right ones, by label."""
    test_confused: Mapping[int, Sequence[tuple[Count, Count, Count]]] = field(default_factory=dict)
    """By seed: the wrong ones as (label, answer, images), the most first; all of them, or of more
    than 100 classes the most frequent."""
    finalists: tuple[Count, ...] = ()
    """Numbers of the trials that were compared; empty where an older version wrote the file."""
    num_finalists: Count = 0
    """How many were to be compared."""
    most_finalists: Count = 0
    """How many, where more were within one standard error of the best; 0: `num_finalists`."""
    num_left_out: Count = 0
    """Trials within one standard error of the best on validation that were not compared."""
    num_trials_at_choice: Count | None = None
    """How many trials of the search had ended when the finalists were chosen."""
    num_planned_trials: Count | None = None
    round: Count = 1
    """2 and more: the last stage was done again."""
    num_openings: Count = 1
    """In how many rounds the test split was opened."""
    earlier: tuple["FinalResult", ...] = ()
    """The rounds before this one."""

    @property
    def folds_text(self) -> str | None:
        """`81.2 (79.1–83.2)`: its mean over folds and their seeds, with the 95 % interval."""
        return folds_text(self.cross_validation, self.cross_validation_interval)

    @property
    def test_majority_share(self) -> float | None:
        """The test score of always answering the most frequent class."""
        if self.test_baseline is not None or self.test_majority is None or not self.num_test:
            return self.test_baseline
        return self.test_majority / self.num_test

    @property
    def test_images(self) -> float | None:
        """What uncertainty is computed from."""
        return self.test_effective_images or self.num_test

    @property
    def is_early(self) -> bool:
        """The finalists were chosen before the search was over."""
        chosen, planned = self.num_trials_at_choice, self.num_planned_trials
        return chosen is not None and planned is not None and chosen < planned


def is_current(result: FinalResult, trials: Sequence[TrialRecord], task: TaskPlan) -> bool:
    """Its finalists would be chosen now too; False: the search went on and has better ones."""
    now = finalists_by(
        trials,
        task,
        num_finalists=result.num_finalists,
        most_finalists=result.most_finalists,
    )
    return not result.finalists or tuple(trial.number for trial in now) == result.finalists


def caveats(result: FinalResult) -> Iterator[str]:
    """What a reader of the test number should know of how it came about."""
    planned = result.num_planned_trials
    if result.is_early and result.finalists:
        yield (
            f"Its finalists were chosen when {result.num_trials_at_choice} of {planned} trials of "
            "the search had ended."
        )
    if result.num_left_out:
        yield (
            f"{counted(result.num_left_out, 'more trial')} of the search within one standard error "
            f"of its best on validation {'was' if result.num_left_out == 1 else 'were'} not "
            "compared."
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
        study = f"{result.task}.{result.space}"
        is_planned = any(one.name == study for one in finals.plan.studies)
        runs = finals.final_runs(study) if is_planned else []
        known = [run.facts["num_test"] for run in runs if "num_test" in run.facts]
        is_known = result.num_test is not None or not known
        found.append(result if is_known else replace(result, num_test=known[0]))
    return found


def final_results(folder: Path, plan: SweepPlan, record: Record) -> list[FinalResult]:
    """Those of final.json in a sweep's folder, or of the storage where that is missing.

    Empty before the last stage was begun.
    """
    results = read_final_results(folder)
    if results and all(result.num_test or not result.test_accuracies for result in results):
        return results
    finals = FinalRecord.begun(plan, record, record.storage_url)
    if finals is None:
        return results
    if results:
        return with_test_images(results, finals)
    found = [_known(asdict(outcome)) for outcome in outcomes(plan, record, finals)]
    return [read_as(FinalResult, entry, source=f"storage of {plan.name}") for entry in found]


def read_final_results(folder: Path) -> list[FinalResult]:
    """The final results of a sweep folder; empty if it was not finalized."""
    path = folder / FINAL_FILE
    try:
        written = read_regular(path, most_bytes=MOST_BYTES, follow_link=False)
    except FileNotFoundError:
        return []
    try:
        entries = json.loads(written)
        if not isinstance(entries, list):
            raise ValueError(f"expected a list, found {shown(entries)}")
        known = [_known(entry) for entry in entries]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not a list of final results: {error}") from error
    return [
        read_as(FinalResult, entry, source=f"{path}: entry {number}")
        for number, entry in enumerate(known, start=1)
    ]


def _known(entry: Any) -> dict[str, Any]:
    """What we read of an entry; the file says more."""
    if not isinstance(entry, dict):
        raise ValueError(f"expected names with values, found {shown(entry)}")
    names = [f.name for f in fields(FinalResult)]
    found = {name: entry[name] for name in names if entry.get(name) is not None}
    if isinstance(found.get("earlier"), list):
        found["earlier"] = [_known(earlier) for earlier in found["earlier"]]
    return found
