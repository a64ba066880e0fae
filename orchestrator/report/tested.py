"""How test numbers came about: how often the split was opened, and after how much of the search."""

from collections import Counter
from collections.abc import Callable, Sequence

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.final_outcome import BEING_COMPARED
from orchestrator.record.record import TrialRecord
from orchestrator.report.collect import StudyReport
from orchestrator.report.final import FinalResult, is_current
from orchestrator.support.counted import counted

SHOWN = 5


def notes_on_test(studies: Sequence[StudyReport]) -> list[str]:
    """What belongs beside test numbers of these studies; nothing where there are none."""
    tested = [study for study in studies if study.test_accuracy is not None and study.final]
    return [_openings(tested), *cautions_on_test(tested)] if tested else []


def cautions_on_test(studies: Sequence[StudyReport]) -> list[str]:
    """Why some of their test numbers do not stand for the whole search."""
    tested = [(study, study.final) for study in studies if study.final]
    outdated = [study.name for study, _ in tested if not study.final_is_current]
    early = [
        f"{study.name} ({final.num_trials_at_choice} of "
        f"{counted(final.num_planned_trials or 0, 'trial')})"
        for study, final in tested
        if final.is_early and study.final_is_current
    ]
    found = []
    if outdated:
        found.append(
            f"Test numbers that are out of date, since the search went on and has other finalists "
            f"now: {_first(outdated)}. `orchestrator finalize --again` compares these."
        )
    if early:
        found.append(f"Finalists chosen before the search was over: {_first(early)}.")
    return found


def stage_lines(
    results: Sequence[FinalResult],
    plan: SweepPlan,
    trials_of: Callable[[str], Sequence[TrialRecord]],
) -> list[str]:
    """How far the last stage is, and what of it is out of date; nothing before it was begun."""
    if not any(result.finalists or result.test_accuracies for result in results):
        return []
    tested = sum(bool(result.test_accuracies) for result in results)
    lines = [f"last stage: {tested} of {counted(len(results), 'study')} tested"]
    for result in results:
        study = f"{result.task}.{result.space}"
        if result.round > 1:
            lines.append(f"last stage of {study}: round {result.round}, after an earlier one")
        if result.winner is None and result.finalists and result.why not in ("", BEING_COMPARED):
            lines.append(f"last stage of {study}: {result.why}")
        if not is_current(result, trials_of(study), plan.task(result.task)):
            lines.append(
                f"last stage of {study}: out of date, the search has other finalists now; "
                "`orchestrator finalize --again` compares these"
            )
    return lines


def _openings(tested: Sequence[StudyReport]) -> str:
    times = {study.name: study.final.num_openings for study in tested if study.final}
    often = Counter({name: number for name, number in times.items() if number > 1})
    if not often:
        return "The test split was opened once for each study."
    told = _first([f"{name} ({counted(number, 'time')})" for name, number in often.most_common()])
    return f"The test split was opened more than once for {told}; the newest round is shown."


def _first(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
