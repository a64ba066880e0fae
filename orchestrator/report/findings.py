"""Plain sentences: what to look at in a study, the sweep in short."""

from collections import Counter
from collections.abc import Sequence

from orchestrator.plan.space import extremes
from orchestrator.record.record import TrialRecord
from orchestrator.report.cautions import cautions, collapsed_sentence, tested_sentence
from orchestrator.report.collect import StudyReport, SweepReport, learning_curve
from orchestrator.report.convergence import COUNTED, convergence
from orchestrator.report.prompts_vs_baselines import prompt_headlines
from orchestrator.report.tested import cautions_on_test
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import value_text

MOST_CAUTIONS = 10
"""In short; all of them stand with their studies."""


def remarks(study: StudyReport) -> list[str]:
    """What a reader should know before trusting the best configuration of a study."""
    found = _cautions(study)
    best = study.best
    if best is None or study.val_error is None:
        return found
    floor = (best.val_accuracy or 0.0) - study.val_error
    rivals = [
        t
        for t in study.trials
        if t.state == "complete" and t is not best and (t.val_accuracy or 0.0) >= floor
    ]
    if rivals:
        found.append(
            f"{counted(len(rivals), 'other complete trial')} "
            f"{'lies' if len(rivals) == 1 else 'lie'} within one standard error of the best: "
            f"{counted(study.task.num_val, 'validation image')} cannot tell them apart."
        )
    found.extend(_at_the_edge(study, best))
    if (gained := still_rising(study)) is not None:
        found.append(
            f"Trial #{best.number} was still rising at its end, by {100 * gained:.1f} points over "
            "the last quarter of its epochs: more epochs may help."
        )
    if study.states["failed"]:
        found.append(f"{counted(study.states['failed'], 'trial')} failed, see Failures.")
    return found


def still_rising(study: StudyReport) -> float | None:
    """What the best trial gained over the last quarter of its epochs, if that is more than chance.

    With a rate that falls to zero a finished training stands still at its end.
    """
    best = study.best
    curve = [] if best is None else learning_curve(best)
    if not curve or study.val_error is None:
        return None
    epochs, last = curve[-1]
    before = [accuracy for epoch, accuracy in curve if epoch <= 0.75 * epochs]
    if not before or last - before[-1] <= study.val_error:
        return None
    return last - before[-1]


def _at_the_edge(study: StudyReport, best: TrialRecord) -> list[str]:
    """Best values at an end of their range: a wider one may hold a better value."""
    found = []
    for dimension in study.space.dimensions:
        value = best.config.get(dimension.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        ends = extremes(dimension.distribution)
        numbers = [end for end in ends if isinstance(end, int | float)]
        if len(set(numbers)) > 1 and value in (min(numbers), max(numbers)):
            end = "largest" if value == max(numbers) else "smallest"
            found.append(f"The best {dimension.name}, {value_text(value)}, is the {end} searched.")
    return found


def headlines(report: SweepReport) -> list[str]:
    """The sweep in a few sentences."""
    return [
        *prompt_headlines(report),
        *_convergence_headline(report),
        *_pruning_headline(report),
        *_caution_headlines(report),
        *_trouble_headlines(report),
    ]


def _convergence_headline(report: SweepReport) -> Sequence[str]:
    judged = Counter(convergence(study).verdict for study in report.studies)
    if not judged:
        return []
    parts = [f"{judged[verdict]} {said}" for verdict, said in COUNTED.items() if judged[verdict]]
    found = [f"Of {counted(len(report.studies), 'study')}, {', '.join(parts)}."]
    if rising := [study.name for study in report.studies if still_rising(study) is not None]:
        found.append(
            f"The best trial was still rising at its end in {len(rising)} of "
            f"{counted(len(report.studies), 'study')}: {', '.join(rising[:5])}"
            f"{' ...' if len(rising) > 5 else ''}. More epochs may help there."
        )
    return found


def _pruning_headline(report: SweepReport) -> Sequence[str]:
    run = sum(study.epochs_run_and_planned[0] for study in report.studies)
    planned = sum(study.epochs_run_and_planned[1] for study in report.studies)
    pruned = sum(study.states["pruned"] for study in report.studies)
    if not pruned:
        return []
    ended = sum(len(study.finished) for study in report.studies)
    return [
        f"Pruning stopped {pruned:,} of {counted(ended, 'trial')} early and spared "
        f"{100 * (1 - run / planned):.0f} % of the epochs."
    ]


def _caution_headlines(report: SweepReport) -> Sequence[str]:
    """What stands with each study is not overlooked in a long report."""
    return [
        f"{study.name}: {sentence}" for study in report.studies for sentence in _cautions(study)
    ][:MOST_CAUTIONS]


def _cautions(study: StudyReport) -> list[str]:
    """What to be careful about in the search, and in the test where there was one."""
    found, final = cautions(study.task, study.trials), study.final
    if final is not None:
        told = (tested_sentence(final), collapsed_sentence(final))
        found += [sentence for sentence in told if sentence]
    return found


def _trouble_headlines(report: SweepReport) -> Sequence[str]:
    found = cautions_on_test(report.studies)
    planned = report.plan.num_trials
    ended = sum(len(study.finished) for study in report.studies)
    if ended < planned:
        found.append(f"The sweep is not over: {ended} of {counted(planned, 'trial')} have ended.")
    if report.failures:
        found.append(f"{counted(len(report.failures), 'trial')} failed, with reasons below.")
    return found
