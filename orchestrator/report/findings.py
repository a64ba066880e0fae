"""Plain sentences: had the search converged, were prompts worth it, what to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.record import TrialRecord
from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.statistics import CLEAR, difference_error
from orchestrator.report.wording import count, percent, signed, value_text
from orchestrator.space import extremes

MIN_TRIALS = 10
"""Below this nothing is said about convergence."""
QUIET_SHARE = 1 / 3
"""A search whose best stood unchanged over this share of its last trials is called converged."""


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """Whether more trials would probably help; `converged` is None where that cannot be said."""

    converged: bool | None
    sentence: str


def convergence(study: StudyReport) -> Convergence:
    """By how long the best value has stood, in the order in which trials ended."""
    ended, planned = len(study.finished), study.plan.num_trials
    if study.best is None:
        return Convergence(converged=None, sentence=f"No complete trial among {ended}.")
    if ended < MIN_TRIALS:
        few = f"Too few trials to say ({ended}, at least {MIN_TRIALS} are needed)."
        return Convergence(converged=None, sentence=few)
    found_at = 1 + study.finished.index(study.best)
    quiet = (ended - found_at) / ended
    where = f"the best value came with trial {found_at} of the {ended} that ended"
    if ended < planned:
        left = f"The search is not over ({ended} of {planned} trials); so far {where}."
        return Convergence(converged=None, sentence=left)
    if quiet >= QUIET_SHARE:
        return Convergence(
            converged=True,
            sentence=f"Converged as far as one can tell: {where}, "
            f"and the last {100 * quiet:.0f} % did not improve on it.",
        )
    return Convergence(
        converged=False,
        sentence=f"Not converged: {where}, so more trials may help.",
    )


def remarks(study: StudyReport) -> list[str]:
    """What a reader should know before trusting the best configuration of a study."""
    best = study.best
    if best is None or study.val_error is None:
        return []
    found = []
    floor = (best.val_accuracy or 0.0) - study.val_error
    rivals = [
        t
        for t in study.trials
        if t.state == "complete" and t is not best and (t.val_accuracy or 0.0) >= floor
    ]
    if rivals:
        found.append(
            f"{count(len(rivals), 'other complete trial')} "
            f"{'lies' if len(rivals) == 1 else 'lie'} within one standard error of the best: "
            f"{count(study.task.num_val, 'validation image')} cannot tell them apart."
        )
    found.extend(_at_the_edge(study, best))
    if study.states["failed"]:
        found.append(f"{count(study.states['failed'], 'trial')} failed, see Failures.")
    return found


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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One accuracy minus another, with its standard error."""

    value: float
    error: float

    @property
    def verdict(self) -> str:
        """better, worse, or unclear."""
        if abs(self.value) < CLEAR * self.error:
            return "unclear"
        return "better" if self.value > 0 else "worse"

    def __str__(self) -> str:
        return signed(self.value, self.error)


def difference(study: StudyReport, other: StudyReport) -> Difference | None:
    """Of the best val accuracies of two studies."""
    if study.val_accuracy is None or other.val_accuracy is None:
        return None
    return Difference(
        value=study.val_accuracy - other.val_accuracy,
        error=difference_error(
            study.val_accuracy, study.task.num_val, other.val_accuracy, other.task.num_val
        ),
    )


def best_with_prompts(report: SweepReport, task: str) -> StudyReport | None:
    """The best of the task's studies whose method learns prompts."""
    known = [s for s in report.of_task(task) if s.has_prompts and s.val_accuracy is not None]
    return max(known, key=lambda study: study.val_accuracy or 0.0, default=None)


def baseline(report: SweepReport, task: str, method: str) -> StudyReport | None:
    """The task's study of `linear` or `full`, if it has a value."""
    return next(
        (
            study
            for study in report.of_task(task)
            if study.space.method == method and study.val_accuracy is not None
        ),
        None,
    )


def prompts_against(report: SweepReport, task: str, method: str) -> Difference | None:
    """Best prompts minus the baseline; None where the sweep has only one of them."""
    prompted, other = best_with_prompts(report, task), baseline(report, task, method)
    return difference(prompted, other) if prompted and other else None


def worth(report: SweepReport, task: str) -> str | None:
    """Whether prompts were worth it on a task."""
    prompted = best_with_prompts(report, task)
    if prompted is None:
        return None
    sentences = []
    for method, name in (("linear", "the linear probe"), ("full", "full fine-tuning")):
        found = prompts_against(report, task, method)
        if found is None:
            continue
        verdict = {
            "better": f"better than {name}",
            "worse": f"worse than {name}",
            "unclear": f"not told apart from {name}",
        }[found.verdict]
        sentences.append(f"{verdict} ({found} points)")
    if not sentences:
        return None
    return (
        f"Prompts ({prompted.plan.space}, {percent(prompted.val_accuracy)} %) are "
        f"{' and '.join(sentences)}."
    )


def headlines(report: SweepReport) -> list[str]:
    """The sweep in a few sentences."""
    return [
        *_prompt_headlines(report),
        *_convergence_headline(report),
        *_pruning_headline(report),
        *_trouble_headlines(report),
    ]


def _prompt_headlines(report: SweepReport) -> Sequence[str]:
    found = []
    for method, name in (("linear", "the linear probe"), ("full", "full fine-tuning")):
        differences = [prompts_against(report, task.name, method) for task in report.plan.tasks]
        verdicts = [difference.verdict for difference in differences if difference]
        if not verdicts:
            continue
        found.append(
            f"Prompts against {name}, on validation images: "
            f"better on {verdicts.count('better')}, worse on {verdicts.count('worse')}, not told "
            f"apart on {verdicts.count('unclear')} of {count(len(verdicts), 'task')} "
            f"(a difference of {CLEAR:.0f} standard errors counts)."
        )
    return found


def _convergence_headline(report: SweepReport) -> Sequence[str]:
    judged = [convergence(study).converged for study in report.studies]
    if not judged:
        return []
    parts = [f"{judged.count(True)} of {count(len(judged), 'study')} had converged"]
    if judged.count(False):
        parts.append(f"{judged.count(False)} had not")
    if judged.count(None):
        parts.append(f"of {judged.count(None)} it cannot be said")
    return [", ".join(parts) + "."]


def _pruning_headline(report: SweepReport) -> Sequence[str]:
    run = sum(study.epochs_run_and_planned[0] for study in report.studies)
    planned = sum(study.epochs_run_and_planned[1] for study in report.studies)
    pruned = sum(study.states["pruned"] for study in report.studies)
    if not pruned:
        return []
    ended = sum(len(study.finished) for study in report.studies)
    return [
        f"Pruning stopped {pruned} of {count(ended, 'trial')} early and spared "
        f"{100 * (1 - run / planned):.0f} % of the epochs."
    ]


def _trouble_headlines(report: SweepReport) -> Sequence[str]:
    found = []
    planned = report.plan.num_trials
    ended = sum(len(study.finished) for study in report.studies)
    if ended < planned:
        found.append(f"The sweep is not over: {ended} of {planned} trials have ended.")
    if report.failures:
        found.append(f"{count(len(report.failures), 'trial')} failed, with reasons below.")
    return found
