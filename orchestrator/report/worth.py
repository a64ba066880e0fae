"""Whether prompts were worth it: the best prompt method against the baselines of the same sweep.

Judged on test images where both sides were finalized, else on validation images. Which prompt
method is the best one is never decided on test images.
"""

from collections import Counter
from collections.abc import Sequence

from orchestrator.report.collect import StudyReport, SweepReport, highest
from orchestrator.report.difference import Difference, test_difference, val_difference
from orchestrator.report.wording import count, percent
from orchestrator.uncertainty import CLEAR

BASELINES = {"linear": "the linear probe", "full": "full fine-tuning"}


def best_with_prompts(report: SweepReport, task: str) -> StudyReport | None:
    """The best of the task's studies whose method learns prompts."""
    return highest(study for study in report.of_task(task) if study.has_prompts)


def prompts_against(report: SweepReport, task: str, method: str) -> Difference | None:
    """Best prompts minus the study of a baseline; None where the sweep has only one of them."""
    prompted = best_with_prompts(report, task)
    other = next((s for s in report.of_task(task) if s.space.method == method), None)
    if prompted is None or other is None:
        return None
    return test_difference(prompted, other) or val_difference(prompted, other)


def worth(report: SweepReport, task: str) -> str | None:
    """Whether prompts were worth it on a task."""
    prompted = best_with_prompts(report, task)
    if prompted is None:
        return None
    found = {name: prompts_against(report, task, method) for method, name in BASELINES.items()}
    said = [
        f"{_SAID[known.verdict]} {name} ({known} points on {known.images} images)"
        for name, known in found.items()
        if known
    ]
    if not said:
        return None
    accuracy = f"{percent(prompted.val_accuracy)} % on validation"
    return f"Prompts ({prompted.plan.space}, {accuracy}) are {' and '.join(said)}."


def prompt_headlines(report: SweepReport) -> Sequence[str]:
    """One sentence per baseline, over all tasks."""
    found = []
    for method, name in BASELINES.items():
        every = [prompts_against(report, task.name, method) for task in report.plan.tasks]
        known = [difference for difference in every if difference]
        if not known:
            continue
        verdicts = Counter(difference.verdict for difference in known)
        images = " or ".join(dict.fromkeys(difference.images for difference in known))
        found.append(
            f"Prompts against {name}, on {images} images: better on {verdicts['better']}, worse on "
            f"{verdicts['worse']}, unclear on {verdicts['unclear']} of "
            f"{count(len(known), 'task')} (a difference of {CLEAR:.0f} standard errors counts)."
        )
    return found


_SAID = {"better": "better than", "worse": "worse than", "unclear": "not told apart from"}
